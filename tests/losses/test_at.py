"""AT with other powers than 2, and with the columns that AICSD normalises."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.at import AT

TASK = Task(3, 255, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("norm, dims", [("image", (1, 2)), ("column", (1,))])
def test_value(power, norm, dims):
    maps = [torch.randn(2, channels, 3, 4, dtype=torch.float64) for channels in (3, 5)]
    energies = [(x.abs() ** power).sum(1) for x in maps]  # (B, h, w)
    s, t = (energy / (energy**2).sum(dims, keepdim=True) ** 0.5 for energy in energies)
    student, teacher = (prediction(head=x) for x in maps)
    value = AT(TASK, power=power, norm=norm)(student, teacher, None)
    assert value.item() == pytest.approx(((s - t) ** 2).mean().item(), rel=1e-12)
