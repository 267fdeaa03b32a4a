"""Query-based soft distillation: what attention makes of equal tokens, and heads that do not fit."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.qsd import QSD

TASK = Task(3, 255, Features("student", {"stage4": 4}, {}), Features("teacher", {"stage4": 6}, {}))


def test_equal_teacher_tokens_see_the_mean_of_the_values():
    loss, student, teacher = QSD(TASK).double(), torch.randn(2, 4, 3, 5).double(), torch.randn(2, 6, 1, 1).double()
    goal = teacher.expand(2, 6, 3, 5)
    mean = loss.value(student.flatten(2).mT).mean(1)  # (B, C')
    value = loss(prediction(stage4=student), prediction(stage4=goal), None)
    torch.testing.assert_close(value, (mean - teacher[..., 0, 0]).square().mean())


def test_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="heads must divide the teacher's channels; got 4 heads, 6 channels"):
        QSD(TASK, heads=4)
