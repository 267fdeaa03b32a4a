"""Scores against counts made pixel by pixel."""

import math

import pytest
import torch

from segkd.runner.scoring.metrics._metric import Split
from segkd.runner.scoring.metrics.confusion import Confusion, areas, confusion_matrix, scores

IGNORE = 255


def example(classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (2, 9, 8), generator=generator)
    prediction = torch.where(
        torch.rand(target.shape, generator=generator) < 0.6,
        target,
        torch.randint(classes, target.shape, generator=generator),
    )
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    return prediction, target


@pytest.mark.parametrize("classes, dtype", [(4, torch.int64), (40, torch.uint8)])  # 40 * 40 is more than uint8 holds
def test_confusion_matrix_by_loop(classes, dtype):
    prediction, target = example(classes)
    wanted = [[0] * classes for _ in range(classes)]
    for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
        if t != IGNORE:
            wanted[t][p] += 1
    matrix = confusion_matrix(prediction.to(dtype), target.to(dtype), classes, IGNORE)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == wanted


def test_labels_outside_the_classes_are_not_counted():
    target = torch.tensor([[0, 1, -1, 7, 2, 255]])
    matrix = confusion_matrix(torch.zeros_like(target), target, 3, 2)
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"prediction is \(2, 2\) but target is \(2, 3\)"):
        confusion_matrix(torch.zeros(2, 2).long(), torch.zeros(2, 3).long(), 3, IGNORE)


def test_scores_by_hand():
    # class 0: 6 right, 2 missed, 1 too many; class 1: 3 right, 1 missed, 2 too many
    result = scores(torch.tensor([[6, 2], [1, 3]]))
    assert result["iou_per_class"] == pytest.approx([6 / 9, 3 / 6])
    assert result["accuracy_per_class"] == pytest.approx([6 / 8, 3 / 4])
    assert result["dice_per_class"] == pytest.approx([12 / 15, 6 / 9])
    assert result["miou"] == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert result["class_accuracy"] == pytest.approx(0.75)
    assert result["pixel_accuracy"] == pytest.approx(9 / 12)
    assert result["fwiou"] == pytest.approx(8 / 12 * 6 / 9 + 4 / 12 * 3 / 6)
    assert result["dice"] == pytest.approx((12 / 15 + 6 / 9) / 2)


def test_absent_classes():
    # class 1 is predicted but never labelled, class 2 is neither
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    skip, zero = scores(matrix, absent="skip"), scores(matrix, absent="zero")
    assert skip["miou"] == pytest.approx((3 / 4 + 0) / 2)
    assert skip["class_accuracy"] == pytest.approx(3 / 4)
    assert math.isnan(skip["iou_per_class"][2]) and math.isnan(skip["accuracy_per_class"][1])
    assert zero["miou"] == pytest.approx((3 / 4 + 0 + 0) / 3)
    assert zero["class_accuracy"] == pytest.approx(3 / 4 / 3)
    assert zero["iou_per_class"] == pytest.approx([3 / 4, 0, 0])
    assert skip["fwiou"] == zero["fwiou"] == pytest.approx(3 / 4)
    assert skip["miou_present"] == zero["miou_present"] == skip["miou"]
    split = Split(("a", "b", "c"), absent="zero")
    assert "mean IoU of the classes that occur 37.50 %" in Confusion(split).text(zero)
    assert "that occur" not in Confusion(split).text(skip)


def test_large_counts_stay_exact():
    matrix = torch.tensor([[2**53 // 4, 1], [1, 2]])
    assert scores(matrix)["iou_per_class"][1] == 0.5


@pytest.mark.parametrize("absent", ["skip", "zero"])
def test_where_nothing_was_counted_the_frequency_weighted_iou_is_zero(absent):
    # AICSD's Evaluator: freq = rows / all; (freq[freq > 0] * iou[freq > 0]).sum(), a sum over no class
    frequency = torch.zeros(3) / 0
    assert scores(torch.zeros(3, 3), absent)["fwiou"] == frequency[frequency > 0].sum() == 0
    assert math.isnan(scores(torch.zeros(3, 3))["miou"]) and math.isnan(scores(torch.zeros(3, 3))["pixel_accuracy"])


def test_counts_of_images_add_up_to_the_matrix():
    prediction, target = example()
    counts = Confusion(Split(tuple("abcd"))).count(torch.zeros(0), prediction, target)
    assert torch.equal(counts["matrix"], confusion_matrix(prediction, target, 4, IGNORE))
    assert torch.equal(counts["images"].sum(0), areas(counts["matrix"]))
    for image, found in enumerate(counts["images"]):
        seen = target[image] != IGNORE
        hits = [(prediction[image] == target[image]) & (target[image] == value) for value in range(4)]
        assert found[:, 0].tolist() == [int(hit.sum()) for hit in hits]
        assert found[:, 2].tolist() == [int((prediction[image][seen] == value).sum()) for value in range(4)]


def test_text():
    metric = Confusion(Split(("road", "traffic sign", "sky")))
    lines = metric.text(metric.values({"matrix": torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 0]])})).splitlines()
    assert lines[2].split(" | ") == ["| road        ", "  75.00", "       75.00", "   85.71 |"]
    assert lines[4].split() == ["|", "sky", "|", "-", "|", "-", "|", "-", "|"]
    assert lines[5].split() == ["|", "mean", "|", "37.50", "|", "75.00", "|", "42.86", "|"]
    assert lines[7] == "pixel accuracy 75.00 %, frequency-weighted IoU 75.00 %"
    assert len({len(line) for line in lines[:6]}) == 1
