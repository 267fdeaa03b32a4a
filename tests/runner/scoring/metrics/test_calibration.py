"""Calibration error against closed forms and a loop."""

import math

import pytest
import torch

from segkd.runner.scoring.metrics._metric import Split
from segkd.runner.scoring.metrics.calibration import Calibration

IGNORED = 255


def calibration(classes, average="softmax"):
    return Calibration(Split(tuple(map(str, range(classes))), IGNORED, average=average))


def sure_of(confidence, shape=(2, 4, 5)):
    """Three-class probabilities whose largest one is `confidence`, of class 1, at every pixel."""
    probabilities = torch.full((shape[0], 3, *shape[1:]), (1 - confidence) / 2)
    probabilities[:, 1] = confidence
    return probabilities


@pytest.mark.parametrize("confidence, right", [(0.9, 0.5), (0.62, 0.75), (1.0, 0.25), (0.7, 0.0)])
def test_one_confidence_misses_by_its_distance_to_the_accuracy(confidence, right):
    target = torch.zeros(2, 4, 5, dtype=torch.int64)
    target.view(-1)[: round(40 * right)] = 1
    counts = calibration(3).count(sure_of(confidence), target, target)
    values = calibration(3).values(counts)
    assert values["calibration_error"] == pytest.approx(abs(confidence - right), abs=1e-6)
    assert (counts["bins"][:, 0] > 0).sum() == 1
    line = calibration(3).text(values).splitlines()[2]
    assert [float(cell) for cell in line.split("|")[2:5]] == pytest.approx([100, 100 * confidence, 100 * right])


def test_bins_equal_a_loop():
    draw = torch.Generator().manual_seed(0)
    probabilities = torch.randn(3, 4, 6, 7, generator=draw).mul(3).softmax(1)
    target = torch.randint(4, (3, 6, 7), generator=draw)
    target[:, 0] = IGNORED
    counts = calibration(4).count(probabilities, target, target)["bins"]
    expected = torch.zeros(15, 3, dtype=torch.float64)
    for image in range(3):
        for y in range(1, 6):
            for x in range(7):
                confidence, prediction = probabilities[image, :, y, x].max(0)
                place = math.ceil(confidence.item() * 15) - 1
                expected[place] += torch.tensor([1.0, confidence.item(), float(prediction == target[image, y, x])])
    assert torch.allclose(counts, expected, atol=1e-9) and counts[:, 0].sum() == 3 * 5 * 7
    logits = calibration(4, "logits").count(probabilities.log(), target, target)["bins"]
    torch.testing.assert_close(logits, counts)
    pixels = expected[:, 0].clamp_min(1)
    gaps = (expected[:, 2] / pixels - expected[:, 1] / pixels).abs()
    error = calibration(4).values({"bins": counts})["calibration_error"]
    assert error == pytest.approx((gaps * expected[:, 0]).sum().item() / 105)
