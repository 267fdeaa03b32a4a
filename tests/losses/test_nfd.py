"""NFD and PKD against Pearson's correlation, channel by channel."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.nfd import NFD

TASK = Task(3, 255, Features("student", {"head": 4}, {}), Features("teacher", {"head": 6, "neck": 4}, {}))


def random_maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(3 + 2 * torch.randn(2, *shape, generator=generator, dtype=torch.float64))


def rows(x, over):
    """The sets of values that share a mean: (sets, values)."""
    order = {"batch_space": (1, 0, 2, 3), "space": (0, 1, 2, 3), "channel": (0, 2, 3, 1)}[over]
    first = {"batch_space": 1, "space": 2, "channel": 3}[over]
    return x.permute(order).flatten(first).reshape(-1, x.permute(order).shape[first:].numel()).numpy()


@pytest.mark.parametrize("over", ["batch_space", "space", "channel"])
def test_mean_of_squares_is_that_of_the_correlations(over):
    student, teacher = random_maps(2, 4, 3, 5)
    value = NFD(TASK, teacher_feature="neck", over=over, eps=1e-12)(
        prediction(head=student), prediction(neck=teacher), None
    )
    sets = list(zip(rows(student, over), rows(teacher, over), strict=True))
    n = len(sets[0][0])
    wanted = np.mean([2 * (1 - np.corrcoef(s, t)[0, 1]) * (n - 1) / n for s, t in sets])
    assert value.item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("over, same", [("batch_space", True), ("space", True), ("channel", False)])
def test_scale_and_offset_of_a_channel_count_only_over_channels(over, same):
    student, teacher = random_maps(2, 4, 3, 5)
    scale, offset = torch.tensor([0.1, 1, 20, 3]).view(-1, 1, 1), torch.tensor([-9.0, 0, 4, 1]).view(-1, 1, 1)
    loss = NFD(TASK, teacher_feature="neck", over=over, eps=1e-12)
    values = [
        loss(prediction(head=s), prediction(neck=teacher), None).item() for s in (student, scale * student + offset)
    ]
    assert (values[0] == pytest.approx(values[1], rel=1e-6)) == same


def test_whose_grid_and_whose_width():
    (student, _), (teacher, _) = random_maps(2, 4, 3, 5), random_maps(2, 6, 7, 6)
    for size, align in (("student", True), ("teacher", False)):
        loss = NFD(TASK, size=size, over="channel").double()
        mapped, goal = loss.projection(student), teacher
        if size == "student":
            goal = F.interpolate(teacher, size=(3, 5), mode="bilinear", align_corners=align)
        else:
            mapped = F.interpolate(mapped, size=(7, 6), mode="bilinear", align_corners=align)
        value = loss(prediction(None, align, head=student), prediction(None, align, head=teacher), None)
        z = [(x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6) for x in (mapped, goal)]
        torch.testing.assert_close(value, (z[0] - z[1]).square().mean())
    assert NFD(TASK).projection.bias is None and NFD(TASK, teacher_feature="neck").projection is None


def test_a_map_of_one_position_has_no_deviation():
    maps = (prediction(head=torch.randn(2, 4, 1, 1)), prediction(neck=torch.randn(2, 4, 1, 1)))
    assert NFD(TASK, teacher_feature="neck", over="batch_space")(*maps, None).isfinite()
    with pytest.raises(ValueError, match=r"over space there is one value only in maps of size \(2, 4, 1, 1\)"):
        NFD(TASK, teacher_feature="neck")(*maps, None)
