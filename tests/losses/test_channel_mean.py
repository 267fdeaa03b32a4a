"""The channel-mean term against the order of the released code: resize all channels, then average."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.channel_mean import ChannelMean


def make_task():
    return Task(3, 255, Features("student", {"stage4": 6}, {}), Features("teacher", {"stage4": 4, "neck": 2}, {}))


def prediction(align_corners=False, **features):
    return SimpleNamespace(logits=None, aux=None, align_corners=align_corners, features=features)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("align_corners", [False, True])
def test_value(align_corners):
    student, teacher = random(0, 2, 6, 5, 7), random(1, 2, 4, 3, 4)
    resized = F.interpolate(teacher, size=(5, 7), mode="bilinear", align_corners=align_corners)
    wanted = sum((s.mean(0) - t.mean(0)).square().sum() for s, t in zip(student, resized, strict=True)) / (2 * 5 * 7)
    value = ChannelMean(make_task())(prediction(stage4=student), prediction(align_corners, stage4=teacher), None)
    torch.testing.assert_close(value, wanted)


def test_gradcheck_of_both():
    student, teacher = random(0, 2, 6, 3, 4).requires_grad_(), random(1, 2, 4, 2, 3).requires_grad_()
    loss = ChannelMean(make_task())
    assert torch.autograd.gradcheck(
        lambda s, t: loss(prediction(stage4=s), prediction(stage4=t), None), (student, teacher)
    )


def test_half_precision_is_raised():
    student, teacher = random(0, 2, 6, 3, 4).bfloat16(), random(1, 2, 4, 3, 4).bfloat16()
    loss = ChannelMean(make_task())
    value = loss(prediction(stage4=student), prediction(stage4=teacher), None)
    assert value.dtype == torch.float32
    exact = loss(prediction(stage4=student.double()), prediction(stage4=teacher.double()), None)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


def test_names_of_features():
    task = make_task()
    ChannelMean(task, teacher_feature="neck")
    assert (task.student.wanted, task.teacher.wanted) == ({"stage4"}, {"neck"})
    with pytest.raises(ValueError, match="teacher has no feature 'head'; it has: stage4, neck"):
        ChannelMean(make_task(), teacher_feature="head")
    with pytest.raises(ValueError, match="a teacher is needed"):
        ChannelMean(Task(3, 255, Features("student", {"stage4": 4}, {})))
