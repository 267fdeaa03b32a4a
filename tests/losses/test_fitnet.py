"""FitNet's hint against the definition, written with einsum."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.fitnet import FitNet


def make_task():
    return Task(
        3, 255, Features("student", {"head": 4, "stage3": 2}, {}), Features("teacher", {"head": 6, "stage4": 5}, {})
    )


def prediction(align_corners=False, **features):
    return SimpleNamespace(logits=None, aux=None, align_corners=align_corners, features=features)


def test_value_at_equal_size():
    loss = FitNet(make_task())
    student, teacher = torch.randn(2, 4, 5, 7), torch.randn(2, 6, 5, 7)
    mapped = torch.einsum("tc,bchw->bthw", loss.projection.weight[:, :, 0, 0], student)
    value = loss(prediction(head=student), prediction(head=teacher), None)
    torch.testing.assert_close(value, ((mapped - teacher) ** 2).mean())
    assert [name for name, _ in loss.named_parameters()] == ["projection.weight"]


@pytest.mark.parametrize("align_corners", [False, True])
def test_student_is_resized_to_the_teacher_before_or_after_the_map(align_corners):
    task = make_task()
    loss = FitNet(task, feature="stage3", teacher_feature="stage4")
    student, teacher = torch.randn(2, 2, 4, 5), torch.randn(2, 5, 8, 9)
    resized = F.interpolate(student, size=(8, 9), mode="bilinear", align_corners=align_corners)
    value = loss(prediction(align_corners, stage3=student), prediction(stage4=teacher), None)
    torch.testing.assert_close(value, F.mse_loss(loss.projection(resized), teacher))
    assert (task.student.wanted, task.teacher.wanted) == ({"stage3"}, {"stage4"})


def test_gradients_reach_student_and_map():
    loss = FitNet(make_task()).double()
    student = torch.randn(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 6, 3, 2, dtype=torch.float64)
    weight = loss.projection.weight
    assert torch.autograd.gradcheck(
        lambda s, w: loss(prediction(head=s), prediction(head=teacher), None), (student, weight)
    )


def test_errors_list_what_there_is():
    with pytest.raises(ValueError, match="student has no feature 'neck'; it has: head, stage3"):
        FitNet(make_task(), feature="neck")
    with pytest.raises(ValueError, match="teacher has no feature 'stage3'; it has: head, stage4"):
        FitNet(make_task(), feature="stage3")
    with pytest.raises(ValueError, match="a teacher is needed"):
        FitNet(Task(3, 255, Features("student", {"head": 4}, {})))
