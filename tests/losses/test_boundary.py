"""PIDNet's and STDC's losses of borders against plain loops over pixels, and what they refuse."""

import math

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._edges import details_of, edges_of
from segkd.losses._task import Features, Task
from segkd.losses.boundary import Boundary
from segkd.losses.boundary_awareness import BoundaryAwareness
from segkd.losses.detail import Detail

IGNORE = 255
TASK = Task(3, IGNORE, Features("student", {"boundary": 1, "detail": 1, "head": 3}, {}))


def two_regions(height=9, width=12):
    """Class 0 left, 2 right from column 5 on, the first row ignored."""
    target = torch.zeros(1, height, width, dtype=torch.int64)
    target[..., 5:] = 2
    target[:, 0] = IGNORE
    return target


def test_a_border_is_as_wide_as_it_is_told():
    # columns 4 and, by what is below to the left, 5 differ from a neighbour; the dilation adds 1 before and 2 behind
    edges = edges_of(two_regions(), IGNORE)
    assert edges[0, 4].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert not edges_of(torch.full((1, 4, 4), IGNORE), IGNORE).any()
    narrow = edges_of(two_regions(), IGNORE, width=1)
    assert narrow[0, 4].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0] and not narrow[0, 0].any()


def test_canny_leaves_the_outer_pixels_out():
    target = torch.zeros(1, 20, 24, dtype=torch.int64)
    target[..., 12:] = 1
    edges = edges_of(target, IGNORE, "canny", width=1)
    assert edges.sum(1)[0].nonzero().flatten().tolist() == [11] and edges[0, :, 11].tolist() == 6 * [0] + 8 * [
        1
    ] + 6 * [0]


def test_boundary_balances_both_kinds_of_pixels():
    scores = torch.randn(1, 1, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = two_regions()
    edges = edges_of(target, IGNORE)[0]
    count, wanted = edges.sum().item(), 0.0
    for place in [(y, x) for y in range(9) for x in range(12)]:
        p = 1 / (1 + math.exp(-scores[0, 0][place].item()))
        on_edge = edges[place].item() == 1
        wanted -= (108 - count) / 108 * math.log(p) if on_edge else count / 108 * math.log(1 - p)
    loss = Boundary(TASK)(prediction(None, boundary=scores), None, target)
    assert loss.item() == pytest.approx(wanted / 108, rel=1e-12)


def test_awareness_counts_where_the_boundary_head_is_sure():
    logits = torch.randn(1, 3, 9, 12, generator=torch.Generator().manual_seed(1), requires_grad=True)
    scores = torch.full((1, 1, 9, 12), -3.0, requires_grad=True)
    with torch.no_grad():
        scores[..., 4:6] = 1.5  # sigmoid 0.82
    target = two_regions()
    loss = BoundaryAwareness(TASK)(prediction(logits, boundary=scores), None, target)
    near = logits[0, :, 1:, 4:6].log_softmax(0)
    wanted = -torch.cat([near[0, :, 0], near[2, :, 1]]).mean()
    torch.testing.assert_close(loss, wanted)
    assert torch.autograd.grad(loss, scores, allow_unused=True) == (None,)
    nowhere = BoundaryAwareness(TASK, boundary_probability=0.9)(prediction(logits, boundary=scores), None, target)
    assert nowhere == 0 and not torch.autograd.grad(nowhere, logits)[0].any()


def test_details_are_where_an_id_is_above_its_surroundings():
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    target[0, 5, 6] = 1  # at stride 1 alone
    assert details_of(target).nonzero().tolist() == [[0, 5, 6]]
    target[0, 5, 6], target[0, 8, 8] = 0, 2  # at strides 1, 2 and 4
    assert details_of(target).nonzero()[:, 1:].tolist() == [[8, 8], [8, 9], [9, 8], [9, 9]]


def test_maps_of_other_channels_are_refused():
    for kind, name in ((Boundary, "boundary"), (BoundaryAwareness, "boundary_awareness"), (Detail, "detail")):
        with pytest.raises(ValueError, match=f"{name}: head has 3 channels; a map of"):
            kind(TASK, feature="head")
