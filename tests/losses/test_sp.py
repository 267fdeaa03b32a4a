"""SP against a loop over pairs of images."""

from types import SimpleNamespace

import pytest
import torch

from segkd.losses._task import Features, Task
from segkd.losses.sp import SP


def make_task():
    return Task(3, 255, Features("student", {"stage4": 3, "head": 2}, {}), Features("teacher", {"stage4": 5}, {}))


def prediction(**features):
    return SimpleNamespace(logits=None, aux=None, align_corners=False, features=features)


def features(batch=3):
    """Of different channels and sizes."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for shape in ((3, 4, 5), (5, 2, 3))]


def by_loop(student, teacher):
    def rows(maps):
        matrix = [[float((a * b).sum()) for b in maps] for a in maps]
        return [[x / sum(y * y for y in row) ** 0.5 for x in row] for row in matrix]

    pairs = [(x, y) for a, b in zip(rows(student), rows(teacher), strict=True) for x, y in zip(a, b, strict=True)]
    return sum((x - y) ** 2 for x, y in pairs) / len(student) ** 2


def test_value():
    student, teacher = features()
    value = SP(make_task())(prediction(stage4=student), prediction(stage4=teacher), None)
    assert value.item() == pytest.approx(by_loop(student, teacher), rel=1e-12)


def test_gradcheck():
    student, teacher = features()
    loss = SP(make_task())
    assert torch.autograd.gradcheck(
        lambda s: loss(prediction(stage4=s), prediction(stage4=teacher), None), (student.requires_grad_(),)
    )


def test_one_image_and_silent_features_give_finite_gradients():
    loss = SP(make_task())
    student, teacher = features(1)
    value = loss(prediction(stage4=student.requires_grad_()), prediction(stage4=teacher), None)
    value.backward()
    assert value.item() == 0 and student.grad.abs().max() < 1e-12
    student, teacher = features()
    silent = torch.zeros_like(student).requires_grad_()
    loss(prediction(stage4=silent), prediction(stage4=teacher), None).backward()
    assert silent.grad.isfinite().all()


def test_bfloat16_autocast_does_not_reach_the_products():
    student, teacher = (f.float() for f in features())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SP(make_task())(prediction(stage4=student), prediction(stage4=teacher), None)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(by_loop(student, teacher), rel=1e-5)


def test_names_of_features():
    task = make_task()
    SP(task, feature="head", teacher_feature="stage4")
    assert (task.student.wanted, task.teacher.wanted) == ({"head"}, {"stage4"})
    with pytest.raises(ValueError, match="teacher has no feature 'head'; it has: stage4"):
        SP(make_task(), feature="head")
    with pytest.raises(ValueError, match="a teacher is needed"):
        SP(Task(3, 255, Features("student", {"stage4": 4}, {})))
