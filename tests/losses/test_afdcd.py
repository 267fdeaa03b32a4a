"""Af-DCD: its mask, what is cut away, and where groups or patches do not fit."""

import math

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.afdcd import AfDCD

TASK = Task(3, 255, Features("student", {"stage4": 6}, {}), Features("teacher", {"stage4": 6}, {}))


def test_masks():
    goal = torch.zeros(3, 6, 40, 50)
    centre = AfDCD(TASK, groups=2, mask="center").keep(goal)
    assert not centre[0, 0, 13:26, 16:33].any() and centre.sum() == 40 * 50 - 13 * 17
    random = AfDCD(TASK, groups=2, masked=0.75).keep(goal).float()
    assert random.shape == (3, 1, 40, 50) and abs(random.mean() - 0.25) < 0.03


def test_equal_distances_give_the_logarithm_of_the_number_of_vectors():
    loss, maps = AfDCD(TASK, groups=3, pool=1, patch=(2, 2)), torch.ones(2, 6, 4, 6)
    # each of the 3 groups' vectors against 1 + 4 * 2 others; what fills no patch is left out
    value = loss.contrast(maps, maps)
    torch.testing.assert_close(value, torch.tensor(3 * math.log(1 + 4 * 2)))
    torch.testing.assert_close(loss.contrast(torch.ones(2, 6, 5, 7), torch.ones(2, 6, 5, 7)), value)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="groups must divide the teacher's channels; got 4 for 6 channels"):
        AfDCD(TASK, groups=4)
    for size, pooled in (((15, 20), "3 x 5"), ((2, 20), "0 x 5")):
        maps = prediction(stage4=torch.randn(2, 6, *size))
        with pytest.raises(
            ValueError, match=f"the pooled map is {pooled}, less than one patch of 4 x 4; make the crop"
        ):
            AfDCD(TASK, groups=2)(maps, maps, None)
