"""Boundary IoU against loops that erode each class pixel by pixel."""

import math

import pytest
import torch

from segkd.runner.scoring.metrics.boundary import band, boundary_counts, boundary_iou, default_width

IGNORED = 255


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


@pytest.mark.parametrize("width", [1, 2, 5, 11, 12, 40])
def test_bands_and_counts_equal_a_bare_loop(width):
    prediction, target = blobs(1), blobs(2)
    target[3:7, 20:26] = IGNORED
    counts = boundary_counts(prediction[None], target[None], 5, IGNORED, width)
    seen = prediction.masked_fill(target == IGNORED, IGNORED)
    for value in range(5):
        bands = [inner_band(labels, value, width) for labels in (seen, target)]
        assert counts[value].tolist() == [(bands[0] & bands[1]).sum(), (bands[0] | bands[1]).sum()]
    together = sum(inner_band(target, value, width) for value in (*range(5), IGNORED)).bool()
    assert torch.equal(band(target[None], width)[0], together)


def test_the_mean_is_over_classes_that_occur_and_a_perfect_prediction_is_one():
    target = blobs(3)[None]
    target[:, :2] = IGNORED
    counts = boundary_counts(target.masked_fill(target == IGNORED, 1), target, 6, IGNORED)
    mean, ious = boundary_iou(counts)
    assert mean == 1 and all(iou == 1 or math.isnan(iou) for iou in ious) and math.isnan(ious[5])
    present = sum(iou == 1 for iou in ious)
    assert boundary_iou(counts, "zero")[0] == pytest.approx(present / 6)
    nothing = boundary_counts(target[:0], target[:0], 6, IGNORED)
    assert nothing.shape == (6, 2) and nothing.sum() == 0


def test_the_default_width_is_two_percent_of_the_diagonal():
    assert default_width((1024, 2048)) == 46 and default_width((360, 480)) == 12 and default_width((5, 5)) == 1
    prediction, target = blobs(4, 90, 120)[None], blobs(5, 90, 120)[None]
    assert torch.equal(
        boundary_counts(prediction, target, 4, IGNORED), boundary_counts(prediction, target, 4, IGNORED, 3)
    )
