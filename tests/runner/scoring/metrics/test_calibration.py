"""Calibration error against closed forms and a loop."""

import math

import pytest
import torch

from segkd.runner.scoring.metrics.calibration import calibration_counts, calibration_error, reliability

IGNORED = 255


def sure_of(confidence, shape=(2, 4, 5)):
    """Three-class probabilities whose largest one is `confidence`, of class 1, at every pixel."""
    probabilities = torch.full((shape[0], 3, *shape[1:]), (1 - confidence) / 2)
    probabilities[:, 1] = confidence
    return probabilities


@pytest.mark.parametrize("confidence, right", [(0.9, 0.5), (0.62, 0.75), (1.0, 0.25), (0.7, 0.0)])
def test_one_confidence_misses_by_its_distance_to_the_accuracy(confidence, right):
    target = torch.zeros(2, 4, 5, dtype=torch.int64)
    target.view(-1)[: round(40 * right)] = 1
    counts = calibration_counts(sure_of(confidence), target, IGNORED)
    assert calibration_error(counts) == pytest.approx(abs(confidence - right), abs=1e-6)
    assert (counts[:, 0] > 0).sum() == 1 and f"{100 * confidence:.2f}" in reliability(counts)


def test_bins_equal_a_loop_and_images_add_up():
    draw = torch.Generator().manual_seed(0)
    probabilities = torch.randn(3, 4, 6, 7, generator=draw).mul(3).softmax(1)
    target = torch.randint(4, (3, 6, 7), generator=draw)
    target[:, 0] = IGNORED
    counts = calibration_counts(probabilities, target, IGNORED)
    expected = torch.zeros(15, 3, dtype=torch.float64)
    for image in range(3):
        for y in range(1, 6):
            for x in range(7):
                confidence, prediction = probabilities[image, :, y, x].max(0)
                place = math.ceil(confidence.item() * 15) - 1
                expected[place] += torch.tensor([1.0, confidence.item(), float(prediction == target[image, y, x])])
    assert torch.allclose(counts, expected, atol=1e-9) and counts[:, 0].sum() == 3 * 5 * 7
    parts = [calibration_counts(probabilities[i : i + 1], target[i : i + 1], IGNORED) for i in range(3)]
    assert torch.allclose(sum(parts), counts, atol=1e-12)
    pixels = expected[:, 0].clamp_min(1)
    gaps = (expected[:, 2] / pixels - expected[:, 1] / pixels).abs()
    assert calibration_error(counts) == pytest.approx((gaps * expected[:, 0]).sum().item() / 105)


def test_nothing_counted():
    empty = calibration_counts(torch.zeros(0, 3, 1, 1), torch.zeros(0, 1, 1, dtype=torch.int64), IGNORED)
    assert empty.shape == (15, 3) and math.isnan(calibration_error(empty))
