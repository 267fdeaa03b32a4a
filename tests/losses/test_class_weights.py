"""Weights of classes by rules, from counts small enough to follow by hand."""

import math

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._class_weights import CITYSCAPES_WEIGHTS, weights_by
from segkd.losses._task import Features, LabelCounts, Task
from segkd.losses.cross_entropy import CrossEntropy

# four images of 100 counted pixels: class 0 in all, 1 in two, 2 in one, and 3 never
COUNTS = LabelCounts([280, 80, 40, 0], [4, 2, 1, 0], [400, 200, 100, 0], 4)


def task(counts=None):
    return Task(4, 255, Features("student", {}, {}), label_counts=counts)


@pytest.mark.parametrize("rule, wanted", [
    ("median_frequency", [0.4 / 0.7, 1, 1, 1]),  # frequencies 0.7, 0.4, 0.4
    ("auto", [0.4 / 0.7, 1, 1, 1]),
    ("inverse_sqrt", [share**-0.5 / (0.7**0.5 + 0.2**0.5 + 0.1**0.5) for share in (0.7, 0.2, 0.1)] + [1]),
    ("inverse_log", [1 / math.log(1.72), 1 / math.log(1.22), 1 / math.log(1.12), 1]),
])  # fmt: skip
def test_rules(rule, wanted):
    assert weights_by(rule, COUNTS).tolist() == pytest.approx(wanted)


def test_the_effective_number_counts_images():
    effective = [sum(0.75**place for place in range(images)) for images in (4, 2, 1)]  # 1 + b + b^2 + ...
    weights = weights_by("effective_number", COUNTS)
    assert weights[3] == 1 and weights[:3].mean().item() == pytest.approx(1)
    assert (weights[:3] / weights[0]).tolist() == pytest.approx([effective[0] / number for number in effective])
    assert weights_by("effective_number", LabelCounts([5, 5], [1, 1], [10, 10], 1)).tolist() == [1, 1]


def test_a_loss_takes_them_from_its_task():
    calls = []
    loss = CrossEntropy(task(lambda: calls.append(1) or COUNTS), class_weights="inverse_log")
    assert calls == [1] and torch.equal(loss.class_weights, weights_by("inverse_log", COUNTS))
    logits, target = torch.randn(2, 4, 5, 5), torch.randint(4, (2, 5, 5))
    given = CrossEntropy(task(), class_weights=loss.class_weights.tolist())
    values = [one(prediction(logits), None, target) for one in (loss, given)]
    torch.testing.assert_close(*values, rtol=0, atol=0)
    CrossEntropy(task(lambda: calls.append(1)), class_weights=[1.0, 2.0, 1.0, 1.0])
    assert calls == [1]  # labels are not read for weights that are given
    assert CrossEntropy(task(), class_weights="auto").class_weights.tolist() == [1, 1, 1, 1]
    assert len(CITYSCAPES_WEIGHTS) == 19
    with pytest.raises(ValueError, match="cross_entropy: 19 class_weights given for 4 classes"):
        CrossEntropy(task(COUNTS), class_weights="cityscapes")
    with pytest.raises(
        ValueError, match="cross_entropy: class_weights are 0 for every class, so it would train nothing"
    ):
        CrossEntropy(task(), class_weights=[0.0, 0.0, 0.0, 0.0])
