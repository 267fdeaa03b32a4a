"""CWD between maps of other widths, and where the released form is infinite."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.cwd import CWD

TASK = Task(3, 255, Features("student", {"head": 4}, {}), Features("teacher", {"head": 6, "neck": 4}, {}))


def random_prediction(channels, seed):
    generator = torch.Generator().manual_seed(seed)
    logits, head = (2 * torch.randn(2, c, 3, 4, generator=generator, dtype=torch.float64) for c in (3, channels))
    return prediction(logits, head=head)


@pytest.mark.parametrize("divisor, channels", [("student", 4), ("teacher", 6)])
def test_features_of_other_width(divisor, channels):
    loss = CWD(TASK, feature="head", divisor=divisor).double()
    student, teacher = random_prediction(4, 0), random_prediction(6, 1)
    mapped = F.conv2d(student.features["head"], loss.projection.weight)
    rows = [x.flatten(0, 1).flatten(1) / 4 for x in (mapped, teacher.features["head"])]  # (B C, N)
    wanted = 16 * F.kl_div(rows[0].log_softmax(1), rows[1].softmax(1), reduction="sum") / (2 * channels)
    torch.testing.assert_close(loss(student, teacher, None), wanted)


def test_equal_widths_have_no_projection():
    assert CWD(TASK).projection is None and CWD(TASK, feature="head", teacher_feature="neck").projection is None


def test_a_sharp_distribution_stays_finite():
    student, teacher = random_prediction(4, 0), random_prediction(6, 1)
    student.logits = (1e4 * student.logits).float().requires_grad_()
    value = CWD(TASK, temperature=1.0)(student, teacher, None)
    value.backward()
    assert value.isfinite() and student.logits.grad.isfinite().all()
