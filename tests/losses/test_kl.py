"""Pixel-wise KL against a loop over pixels."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.kl import KL

TASK = Task(4, 255, Features("student", {}, {}), Features("teacher", {}, {}))


def prediction(seed, height=3, width=5, align_corners=False):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 4, height, width, generator=generator, dtype=torch.float64)
    return SimpleNamespace(logits=logits.requires_grad_(), align_corners=align_corners, aux=None, features={})


def by_loop(student, teacher, temperature, counted=lambda b, y, x: True):
    """Mean over counted pixels of the divergence, with plain Python numbers."""
    values = []
    for b in range(student.shape[0]):
        for y in range(student.shape[2]):
            for x in range(student.shape[3]):
                if counted(b, y, x):
                    p, q = ([math.exp(v / temperature) for v in z[b, :, y, x].tolist()] for z in (teacher, student))
                    p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
                    values.append(sum(a * math.log(a / c) for a, c in zip(p, q, strict=True)))
    return sum(values) / len(values)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("reduction", ["pixel", "element"])
@pytest.mark.parametrize("squared", [True, False])
def test_value(temperature, reduction, squared):
    student, teacher = prediction(0), prediction(1)
    loss = KL(TASK, temperature=temperature, reduction=reduction, temperature_squared=squared)
    wanted = by_loop(student.logits, teacher.logits, temperature)
    wanted *= temperature**2 if squared else 1
    wanted /= 4 if reduction == "element" else 1
    assert loss(student, teacher, None).item() == pytest.approx(wanted, rel=1e-12)


def test_sizes_and_each_family_resize():
    student, teacher = prediction(0, 3, 5, align_corners=True), prediction(1, 6, 4, align_corners=False)
    target = torch.zeros(2, 12, 10, dtype=torch.int64)
    for size, shape in (("student", (3, 5)), ("teacher", (6, 4)), ("target", (12, 10))):
        maps = [
            F.interpolate(p.logits, size=shape, mode="bilinear", align_corners=p.align_corners)
            for p in (student, teacher)
        ]
        value = KL(TASK, size=size)(student, teacher, target)
        assert value.item() == pytest.approx(by_loop(*maps, 1.0), rel=1e-12)


def test_mask_leaves_ignored_pixels_out():
    student, teacher = prediction(0), prediction(1)
    target = torch.tensor([[[0, 255, 1, 1, 255]] * 3, [[2, 2, 2, 2, 2]] * 3])
    value = KL(TASK, mask_ignored=True)(student, teacher, target)
    wanted = by_loop(student.logits, teacher.logits, 1.0, lambda b, y, x: target[b, y, x] != 255)
    assert value.item() == pytest.approx(wanted, rel=1e-12)
    value = KL(TASK, mask_ignored=True)(student, teacher, target.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert value.item() == pytest.approx(wanted, rel=1e-12)


def test_all_ignored_under_the_mask_is_an_attached_zero():
    student, teacher = prediction(0), prediction(1)
    value = KL(TASK, mask_ignored=True)(student, teacher, torch.full((2, 3, 5), 255))
    value.backward()
    assert value.item() == 0
    assert not student.logits.grad.any()


def test_zero_for_equal_networks_and_gradcheck_of_both():
    student = prediction(0)
    assert KL(TASK, temperature=2.0)(student, student, None).item() == pytest.approx(0, abs=1e-15)
    loss = KL(TASK, temperature=2.0, size="teacher")

    def value(s, t):
        return loss(
            SimpleNamespace(logits=s, align_corners=False), SimpleNamespace(logits=t, align_corners=False), None
        )

    assert torch.autograd.gradcheck(value, (student.logits, prediction(1, 4, 6).logits))


@pytest.mark.parametrize("guide", ["mean", "detached_mean"])
def test_mean_of_both_as_the_guide(guide):
    student, teacher = prediction(0), prediction(1, 6, 4)
    loss = KL(TASK, temperature=5.0, guide=guide)
    resized = F.interpolate(teacher.logits, size=(3, 5), mode="bilinear")
    mean = (student.logits + resized) / 2
    value = loss(student, teacher, None)
    assert value.item() == pytest.approx(25 * by_loop(student.logits, mean, 5.0), rel=1e-12)
    found = torch.autograd.grad(value, (student.logits, teacher.logits), allow_unused=True)
    if guide == "detached_mean":
        mean = mean.detach()
    log_q, p = F.log_softmax(student.logits / 5, 1), F.softmax(mean / 5, 1)
    literal = 25 * F.kl_div(log_q, p, reduction="sum") / (2 * 3 * 5)
    wanted = torch.autograd.grad(literal, (student.logits, teacher.logits), allow_unused=True)
    torch.testing.assert_close(found[0], wanted[0])
    assert (found[1] is None) == (guide == "detached_mean")
    if found[1] is not None:
        torch.testing.assert_close(found[1], wanted[1])


def test_half_precision_is_raised():
    student, teacher = prediction(0), prediction(1)
    for p in (student, teacher):
        p.logits = p.logits.detach().half()
    value = KL(TASK)(student, teacher, None)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(by_loop(student.logits, teacher.logits, 1.0), rel=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        KL(TASK, temperature=0)
    with pytest.raises(ValueError, match="a teacher is needed"):
        KL(Task(4, 255, Features("student", {}, {})))
