"""ICS at the sizes it compares at, and where its numbers are delicate."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.ics import ICS

TASK = Task(3, 255, Features("student", {}, {}), Features("teacher", {}, {}))


def scores(seed, height=2, width=3, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)


def test_sizes_and_each_family_resize():
    student, teacher = scores(0, 2, 3), scores(1, 4, 2)
    target = torch.zeros(2, 5, 6, dtype=torch.int64)
    for size, shape in (("student", (2, 3)), ("teacher", (4, 2)), ("target", (5, 6))):
        guess = F.interpolate(student, size=shape, mode="bilinear", align_corners=True)
        goal = F.interpolate(teacher, size=shape, mode="bilinear", align_corners=False)
        value = ICS(TASK, size=size)(prediction(student, True), prediction(teacher), target)
        torch.testing.assert_close(value, ICS(TASK, size="student")(prediction(guess), prediction(goal), None))


@pytest.mark.parametrize("variant", ["paper", "raw", "symmetric", "branch", "released"])
def test_equal_networks_and_equal_class_maps(variant):
    loss = ICS(TASK, variant=variant, size="student")
    assert loss(prediction(scores(0)), prediction(scores(0)), None).item() == 0
    # all class maps alike: every divergence is 0, and no rounding error is blown up by the row norm
    alike = scores(0)[:, :1].expand(-1, 3, -1, -1).float().contiguous().requires_grad_()
    value = loss(prediction(alike), prediction(scores(1).float()), None)
    value.backward()
    assert value.isfinite() and alike.grad.isfinite().all() and alike.grad.abs().max() < 1e7


def test_float32_is_close_on_large_maps():
    """Pixels hold 1e-5 of a class map: the entries are differences of numbers near log N."""
    student, teacher = scores(0, 250, 250, scale=0.5), scores(1, 250, 250, scale=0.5)
    loss = ICS(TASK, size="student")
    exact = loss(prediction(student), prediction(teacher), None).item()
    assert loss(prediction(student.float()), prediction(teacher.float()), None).item() == pytest.approx(exact, rel=1e-3)
