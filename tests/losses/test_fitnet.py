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


@pytest.mark.parametrize("align_corners", [False, True])
def test_projection_with_bias_and_without_any(align_corners):
    loss = FitNet(make_task(), projection="affine")
    student, teacher = torch.randn(2, 4, 5, 7), torch.randn(2, 6, 8, 9)
    resized = F.interpolate(student, size=(8, 9), mode="bilinear", align_corners=align_corners)
    mapped = torch.einsum("tc,bchw->bthw", loss.projection.weight[:, :, 0, 0], resized)
    mapped = mapped + loss.projection.bias[:, None, None]
    value = loss(prediction(align_corners, head=student), prediction(head=teacher), None)
    torch.testing.assert_close(value, ((mapped - teacher) ** 2).mean())

    table = {"head": 6}
    loss = FitNet(Task(3, 255, Features("student", table, {}), Features("teacher", table, {})), projection="none")
    value = loss(prediction(head=teacher + 1), prediction(head=teacher), None)
    assert value.item() == pytest.approx(1, rel=1e-5) and not list(loss.parameters())
    with pytest.raises(ValueError, match="projection none needs equal widths, got 4 and 6 channels"):
        FitNet(make_task(), projection="none")


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
