"""Pixel-wise KL against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.kl import KL

TASK = Task(4, 255, Features("student", {}, {}), Features("teacher", {}, {}))


def random_prediction(seed, height=3, width=5, align_corners=False):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 4, height, width, generator=generator, dtype=torch.float64)
    return prediction(logits.requires_grad_(), align_corners)


def literal(student, teacher, temperature=1.0, counted=None):
    """Mean over counted pixels of the divergence of their (P, 4) scores."""
    student, teacher = (x.movedim(1, 3).flatten(0, 2) / temperature for x in (student, teacher))
    if counted is not None:
        student, teacher = student[counted.flatten()], teacher[counted.flatten()]
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("reduction", ["pixel", "element"])
@pytest.mark.parametrize("squared", [True, False])
def test_value(temperature, reduction, squared):
    student, teacher = random_prediction(0), random_prediction(1)
    loss = KL(TASK, temperature=temperature, reduction=reduction, temperature_squared=squared)
    wanted = literal(student.logits, teacher.logits, temperature)
    wanted = wanted * (temperature**2 if squared else 1) / (4 if reduction == "element" else 1)
    torch.testing.assert_close(loss(student, teacher, None), wanted)


def test_sizes_and_each_family_resize():
    student, teacher = random_prediction(0, 3, 5, align_corners=True), random_prediction(1, 6, 4, align_corners=False)
    target = torch.zeros(2, 12, 10, dtype=torch.int64)
    for size, shape in (("student", (3, 5)), ("teacher", (6, 4)), ("target", (12, 10))):
        maps = [
            F.interpolate(p.logits, size=shape, mode="bilinear", align_corners=p.align_corners)
            for p in (student, teacher)
        ]
        torch.testing.assert_close(KL(TASK, size=size)(student, teacher, target), literal(*maps))


def test_mask_leaves_ignored_pixels_out():
    student, teacher = random_prediction(0), random_prediction(1)
    target = torch.tensor([[[0, 255, 1, 1, 255]] * 3, [[2, 2, 2, 2, 2]] * 3])
    wanted = literal(student.logits, teacher.logits, counted=target != 255)
    for label in (target, target.repeat_interleave(2, 1).repeat_interleave(2, 2)):
        torch.testing.assert_close(KL(TASK, mask_ignored=True)(student, teacher, label), wanted)


@pytest.mark.parametrize("guide", ["mean", "detached_mean"])
def test_mean_of_both_as_the_guide(guide):
    student, teacher = random_prediction(0), random_prediction(1, 6, 4)
    value = KL(TASK, temperature=5.0, guide=guide)(student, teacher, None)
    mean = (student.logits + F.interpolate(teacher.logits, size=(3, 5), mode="bilinear")) / 2
    wanted = 25 * literal(student.logits, mean.detach() if guide == "detached_mean" else mean, 5.0)
    torch.testing.assert_close(value, wanted)
    maps = student.logits, teacher.logits
    ours, theirs = (torch.autograd.grad(x, maps, allow_unused=True) for x in (value, wanted))
    torch.testing.assert_close(ours, theirs)
    assert (ours[1] is None) == (guide == "detached_mean")


@pytest.mark.parametrize("size", ["student", "teacher"])
def test_standardised_scores(size):
    student, teacher = random_prediction(0), random_prediction(1, 6, 4)
    shape = {"student": (3, 5), "teacher": (6, 4)}[size]
    maps = [F.interpolate(p.logits, size=shape, mode="bilinear") for p in (student, teacher)]
    z = [(x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.1) for x in maps]
    loss = KL(TASK, temperature=2.0, standardize=True, size=size, eps=0.1)
    value, wanted = loss(student, teacher, None), 4 * literal(*z, 2.0)
    torch.testing.assert_close(value, wanted)
    leaves = student.logits, teacher.logits
    torch.testing.assert_close(*(torch.autograd.grad(x, leaves) for x in (value, wanted)))


def test_standardised_scores_of_two_classes_warn():
    with pytest.warns(UserWarning, match="with 2 classes standardised scores are all alike"):
        KL(Task(2, 255, Features("student", {}, {}), Features("teacher", {}, {})), standardize=True)
