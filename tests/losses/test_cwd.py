"""CWD between maps of other widths, and where the released form is infinite."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.cwd import CWD

TASK = Task(3, 255, Features("student", {"head": 4}, {}), Features("teacher", {"head": 6, "neck": 4}, {}))


def prediction(channels, seed):
    generator = torch.Generator().manual_seed(seed)
    logits, head = (2 * torch.randn(2, c, 3, 4, generator=generator, dtype=torch.float64) for c in (3, channels))
    return SimpleNamespace(logits=logits, align_corners=False, features={"head": head})


@pytest.mark.parametrize("divisor, channels", [("student", 4), ("teacher", 6)])
def test_features_of_other_width(divisor, channels):
    loss, student, teacher = CWD(TASK, feature="head", divisor=divisor).double(), prediction(4, 0), prediction(6, 1)
    mapped = F.conv2d(student.features["head"], loss.projection.weight)
    rows = [x.flatten(0, 1).flatten(1) / 4 for x in (mapped, teacher.features["head"])]  # (B C, N)
    wanted = 16 * F.kl_div(rows[0].log_softmax(1), rows[1].softmax(1), reduction="sum") / (2 * channels)
    torch.testing.assert_close(loss(student, teacher, None), wanted)


def test_equal_widths_have_no_projection():
    assert CWD(TASK).projection is None and CWD(TASK, feature="head", teacher_feature="neck").projection is None


def test_a_sharp_distribution_stays_finite():
    student, teacher = prediction(4, 0), prediction(6, 1)
    student.logits = (1e4 * student.logits).float().requires_grad_()
    value = CWD(TASK, temperature=1.0)(student, teacher, None)
    value.backward()
    assert value.isfinite() and student.logits.grad.isfinite().all()
