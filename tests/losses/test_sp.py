"""SP between maps of other sizes, and with a single image."""

import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.sp import SP

TASK = Task(3, 255, Features("student", {"stage4": 3}, {}), Features("teacher", {"stage4": 5}, {}))


def predictions(batch):
    maps = (torch.randn(batch, *shape, dtype=torch.float64) for shape in ((3, 4, 5), (5, 2, 3)))
    return [prediction(stage4=x.requires_grad_()) for x in maps]


def test_nothing_is_resized():
    student, teacher = predictions(3)
    grams = [torch.einsum("ichw,jchw->ij", x, x) for x in (p.features["stage4"] for p in (student, teacher))]
    rows = [gram / gram.norm(dim=1, keepdim=True) for gram in grams]
    torch.testing.assert_close(SP(TASK)(student, teacher, None), (rows[0] - rows[1]).square().sum() / 9)


def test_one_image_is_like_itself():
    student, teacher = predictions(1)
    value = SP(TASK)(student, teacher, None)
    value.backward()
    assert value.item() == 0 and student.features["stage4"].grad.abs().max() < 1e-12
