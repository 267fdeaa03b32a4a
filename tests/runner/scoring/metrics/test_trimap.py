"""Trimap IoU against a bare loop over pixels and their neighbours."""

import pytest
import torch

from segkd.runner.scoring.metrics._metric import Split
from segkd.runner.scoring.metrics.trimap import Trimap

IGNORED = 255


def near_a_contour(labels, y, x, width):
    """Whether a pixel of another label is within `width` rows and columns."""
    rows, columns = len(labels), len(labels[0])
    return any(
        labels[row][column] != labels[y][x]
        for row in range(max(0, y - width), min(rows, y + width + 1))
        for column in range(max(0, x - width), min(columns, x + width + 1))
    )


@pytest.mark.parametrize("width", [1, 3, 20])
@pytest.mark.parametrize("absent", ["skip", "zero"])
def test_iou_equals_a_bare_loop(width, absent):
    draw = torch.Generator().manual_seed(width)
    target = torch.zeros(2, 13, 17, dtype=torch.int64)
    target[0, 4:9, 5:], target[0, :2, :3], target[1, 8:, 8:] = 1, 2, IGNORED
    prediction = torch.where(torch.rand(target.shape, generator=draw) < 0.7, target % IGNORED, 1)
    right, union = [0] * 4, [0] * 4
    for truth, said in zip(target.tolist(), prediction.tolist()):
        for y in range(13):
            for x in range(17):
                if truth[y][x] != IGNORED and near_a_contour(truth, y, x, width):
                    right[truth[y][x]] += truth[y][x] == said[y][x]
                    for value in {truth[y][x], said[y][x]}:
                        union[value] += 1
    ious = [r / u if u else 0 for r, u in zip(right, union)]
    metric = Trimap(Split(tuple("abcd"), IGNORED, absent), width=width)
    values = metric.values(metric.count(torch.zeros(0), prediction, target))
    assert torch.tensor(values["trimap_iou_per_class"]).nan_to_num(0).tolist() == pytest.approx(ious)
    assert values["trimap_miou"] == pytest.approx(sum(ious) / (3 if absent == "skip" else 4))
    assert f"within {width} pixels" in metric.text(values) and "c " in metric.text(values)


def test_an_image_of_one_class_has_no_contour():
    target = torch.ones(1, 9, 9, dtype=torch.int64)
    counts = Trimap(Split(tuple("ab"))).count(torch.zeros(0), target, target)
    assert counts["areas"].sum() == 0
