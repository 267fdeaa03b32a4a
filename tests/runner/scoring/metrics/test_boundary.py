"""Boundary IoU against loops that erode each class pixel by pixel."""

import math

import pytest
import torch

from segkd.runner.scoring.metrics._bands import band
from segkd.runner.scoring.metrics._metric import Split
from segkd.runner.scoring.metrics.boundary import Boundary, default_width

IGNORED = 255
NOTHING = torch.zeros(0)  # boundary IoU reads no scores


def eroded(mask, times):
    """A mask less its outermost pixels, `times` times: a square of 3 x 3, nothing outside the image."""
    for _ in range(times):
        rows, columns = len(mask), len(mask[0])
        mask = [
            [
                all(
                    0 <= y + dy < rows and 0 <= x + dx < columns and mask[y + dy][x + dx]
                    for dy in (-1, 0, 1)
                    for dx in (-1, 0, 1)
                )
                for x in range(columns)
            ]
            for y in range(rows)
        ]
    return mask


def inner_band(labels, value, width):
    """Pixels of a class that erosion takes away."""
    mask = [[bool(pixel == value) for pixel in row] for row in labels.tolist()]
    kept = torch.tensor(eroded(mask, width))
    return torch.tensor(mask) & ~kept


def blobs(seed, height=23, width=31, classes=4):
    """A label map of a few rectangles."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.zeros(height, width, dtype=torch.int64)
    for _ in range(6):
        top, left = (int(torch.randint(side - 4, (), generator=draw)) for side in (height, width))
        tall, wide = (int(torch.randint(3, 14, (), generator=draw)) for _ in range(2))
        labels[top : top + tall, left : left + wide] = int(torch.randint(classes, (), generator=draw))
    return labels


def boundary(classes, width=None, absent="skip"):
    return Boundary(Split(tuple(map(str, range(classes))), IGNORED, absent), width=width)


@pytest.mark.parametrize("width", [1, 2, 5, 11, 12, 40])
def test_bands_and_counts_equal_a_bare_loop(width):
    prediction, target = blobs(1), blobs(2)
    target[3:7, 20:26] = IGNORED
    counts = boundary(5, width).count(NOTHING, prediction[None], target[None])["areas"]
    seen = prediction.masked_fill(target == IGNORED, IGNORED)
    for value in range(5):
        bands = [inner_band(labels, value, width) for labels in (seen, target)]
        assert counts[value].tolist() == [(bands[0] & bands[1]).sum(), (bands[0] | bands[1]).sum()]
    together = sum(inner_band(target, value, width) for value in (*range(5), IGNORED)).bool()
    assert torch.equal(band(target[None], width, border=True)[0], together)


def test_the_mean_is_over_classes_that_occur_and_a_perfect_prediction_is_one():
    target = blobs(3)[None]
    target[:, :2] = IGNORED
    counts = boundary(6).count(NOTHING, target.masked_fill(target == IGNORED, 1), target)
    values = boundary(6).values(counts)
    ious = values["boundary_iou_per_class"]
    assert values["boundary_miou"] == 1 and all(iou == 1 or math.isnan(iou) for iou in ious) and math.isnan(ious[5])
    present = sum(iou == 1 for iou in ious)
    assert boundary(6, absent="zero").values(counts)["boundary_miou"] == pytest.approx(present / 6)


def test_the_default_width_is_two_percent_of_the_diagonal():
    assert default_width((1024, 2048)) == 46 and default_width((360, 480)) == 12 and default_width((5, 5)) == 1
    prediction, target = blobs(4, 90, 120)[None], blobs(5, 90, 120)[None]
    by_rule, by_hand = (boundary(4, width).count(NOTHING, prediction, target) for width in (None, 3))
    assert torch.equal(by_rule["areas"], by_hand["areas"])
    counts = {"areas": by_rule["areas"], "widths": by_rule["widths"] + torch.tensor([4, 1])}  # and one of 4 pixels
    assert boundary(4).values(counts)["boundary_width"] == 3.5
    assert "in bands of 3.5 pixels, 2 % of the image's diagonal" in boundary(4).text(boundary(4).values(counts))
