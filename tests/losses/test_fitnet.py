"""FitNet's hint against the definition, written with einsum."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.fitnet import FitNet

TASK = Task(3, 255, Features("student", {"stage3": 4}, {}), Features("teacher", {"stage4": 6}, {}))


@pytest.mark.parametrize("projection", ["linear", "affine"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_value(projection, align_corners):
    loss = FitNet(TASK, feature="stage3", teacher_feature="stage4", projection=projection).double()
    student, teacher = torch.randn(2, 4, 5, 7, dtype=torch.float64), torch.randn(2, 6, 8, 9, dtype=torch.float64)
    resized = F.interpolate(student, size=(8, 9), mode="bilinear", align_corners=align_corners)
    mapped = torch.einsum("tc,bchw->bthw", loss.projection.weight[:, :, 0, 0], resized)
    if projection == "affine":
        mapped = mapped + loss.projection.bias[:, None, None]
    guess = prediction(None, align_corners, stage3=student)
    value = loss(guess, prediction(stage4=teacher), None)
    torch.testing.assert_close(value, ((mapped - teacher) ** 2).mean())


def test_no_projection():
    loss, logits = FitNet(TASK, feature="logits", projection="none"), torch.randn(2, 3, 4, 4)
    assert not list(loss.parameters())
    guess, goal = (prediction(x) for x in (logits + 1, logits))
    assert loss(guess, goal, None).item() == pytest.approx(1, rel=1e-5)
    with pytest.raises(ValueError, match="projection none needs equal widths, got 4 and 6 channels"):
        FitNet(TASK, feature="stage3", teacher_feature="stage4", projection="none")
