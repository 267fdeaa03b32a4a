"""The channel-mean term against the order of the released code: resize all channels, then average."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.channel_mean import ChannelMean

TASK = Task(3, 255, Features("student", {"stage4": 6}, {}), Features("teacher", {"neck": 4}, {}))


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_teacher_is_resized_to_the_student(align_corners):
    student, teacher = torch.randn(2, 6, 5, 7, dtype=torch.float64), torch.randn(2, 4, 3, 4, dtype=torch.float64)
    resized = F.interpolate(teacher, size=(5, 7), mode="bilinear", align_corners=align_corners)
    guess = prediction(None, not align_corners, stage4=student)
    goal = prediction(None, align_corners, neck=teacher)
    value = ChannelMean(TASK, teacher_feature="neck")(guess, goal, None)
    torch.testing.assert_close(value, (student.mean(1) - resized.mean(1)).square().mean())
