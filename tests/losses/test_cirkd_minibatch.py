"""CIRKD's mini-batch term against a loop over pairs of images and pixels."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._relations import row_divergence
from segkd.losses._task import Features, Task
from segkd.losses.cirkd_minibatch import CIRKDMinibatch

TASK = Task(3, 255, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))


def feature(channels, seed, height=3, width=4, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()


def prediction(head, align_corners=False):
    return SimpleNamespace(logits=None, align_corners=align_corners, aux=None, features={"head": head})


def by_loop(student, teacher, temperature):
    pixels = [[[v / v.norm() for v in image.flatten(1).T] for image in x.detach()] for x in (student, teacher)]
    total, count = 0.0, len(pixels[0][0])
    for i in range(len(student)):
        for j in range(len(student)):
            for row in range(count):
                q, p = ([math.exp(x[i][row].dot(k).item() / temperature) for k in x[j]] for x in pixels)
                q, p = [v / sum(q) for v in q], [v / sum(p) for v in p]
                total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / (count * len(student) ** 2)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_value(temperature):
    student, teacher = feature(3, 0), feature(5, 1)
    value = CIRKDMinibatch(TASK, temperature=temperature)(prediction(student), prediction(teacher), None)
    assert value.item() == pytest.approx(by_loop(student, teacher, temperature), rel=1e-10)


def test_one_image_is_warned_about_and_compared_with_itself():
    student, teacher = feature(3, 0, batch=1), feature(5, 1, batch=1)
    with pytest.warns(UserWarning, match="one image per process"):
        value = CIRKDMinibatch(TASK)(prediction(student), prediction(teacher), None)
    assert value.item() == pytest.approx(by_loop(student, teacher, 0.1), rel=1e-10)


def test_maps_are_pooled_from_a_size_on():
    student, teacher = feature(3, 0, 6, 5), feature(5, 1, 6, 5)
    pooled = [F.avg_pool2d(x, 2, 2, ceil_mode=True) for x in (student, teacher)]
    for options, maps in (
        ({"pool": 2, "pool_from": (6, 5)}, pooled),
        ({"pool": 2, "pool_from": (6, 6)}, (student, teacher)),
        ({"pool": 1, "pool_from": (1, 1)}, (student, teacher)),
    ):
        value = CIRKDMinibatch(TASK, **options)(prediction(student), prediction(teacher), None)
        assert value.item() == pytest.approx(by_loop(*maps, 0.1), rel=1e-10)


def test_student_is_resized_to_the_teacher():
    student, teacher = feature(3, 0), feature(5, 1, 5, 3)
    resized = F.interpolate(student, size=(5, 3), mode="bilinear", align_corners=True)
    value = CIRKDMinibatch(TASK)(prediction(student, True), prediction(teacher), None)
    assert value.item() == pytest.approx(by_loop(resized, teacher, 0.1), rel=1e-10)


def test_gradcheck_and_zero_for_equal_maps():
    student, teacher = feature(3, 0), feature(5, 1)
    loss = CIRKDMinibatch(TASK, temperature=0.5)
    assert torch.autograd.gradcheck(lambda s: loss(prediction(s), prediction(teacher), None), student)
    assert loss(prediction(student), prediction(student), None).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("block", [1, 5, 7, 100])
def test_blocks_of_rows_change_nothing(block):
    rows, keys, others = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (7, 6, 7))
    value = row_divergence(rows, keys, others, keys.detach(), block=block)
    wanted = F.kl_div((rows @ keys.T).log_softmax(1), (others @ keys.T).softmax(1).detach(), reduction="sum")
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(torch.autograd.grad(value, (rows, keys)), torch.autograd.grad(wanted, (rows, keys)))


def test_constant_features_are_finite():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = CIRKDMinibatch(TASK)(prediction(student), prediction(torch.ones(2, 5, 4, 4)), None)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


def test_autocast_leaves_the_products_in_float32():
    student, teacher = feature(3, 0).detach().bfloat16(), feature(5, 1).detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = CIRKDMinibatch(TASK)(prediction(student), prediction(teacher), None)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(by_loop(student.double(), teacher.double(), 0.1), rel=1e-4)


def test_errors():
    with pytest.raises(ValueError, match="cirkd_minibatch: temperature must be above 0, got 0"):
        CIRKDMinibatch(TASK, temperature=0)
    with pytest.raises(ValueError, match="cirkd_minibatch: pool must be at least 1 pixel, got 0"):
        CIRKDMinibatch(TASK, pool=0)
    with pytest.raises(ValueError, match="cirkd_minibatch: a teacher is needed"):
        CIRKDMinibatch(Task(3, 255, Features("student", {"head": 3}, {})))
