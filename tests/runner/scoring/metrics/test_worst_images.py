"""The worst images against images whose IoU is known in advance."""

import math

import pytest
import torch

from segkd.runner.scoring.metrics._metric import Split
from segkd.runner.scoring.metrics.worst_images import WorstImages

IGNORED = 255


def image(found):
    """(prediction, target) of 10 x 10: all of class 0, of which `found` pixels are found and the rest called 2."""
    prediction = torch.full((100,), 2)
    prediction[:found] = 0
    return prediction.view(10, 10), torch.zeros(10, 10, dtype=torch.int64)


@pytest.mark.parametrize("share, worst", [(0.05, [3]), (0.25, [3]), (0.5, [3, 1]), (0.74, [3, 1]), (1.0, [3, 1, 0, 4])])
def test_the_mean_is_over_the_lowest(share, worst):
    shares = {0: 0.8, 1: 0.3, 3: 0.1, 4: 0.9}
    pairs = [image(round(100 * shares.get(number, 0))) for number in range(5)]
    pairs[2][1].fill_(IGNORED)  # has no value, and is not counted
    metric = WorstImages(Split(tuple("abc"), IGNORED), share=share)
    # class 2 is predicted but not in the label, so it is in no mean
    counts = metric.count(torch.zeros(0), *map(torch.stack, zip(*pairs)))
    values = metric.values(counts)
    assert values["worst_images_numbers"] == worst
    assert values["worst_images_miou"] == pytest.approx(sum(shares[number] for number in worst) / len(worst))
    assert values["worst_images_all"] == pytest.approx(sum(shares.values()) / 4)
    assert f"counted from 0: {', '.join(map(str, worst))})" in metric.text(values)


def test_an_image_counts_each_of_its_classes_alike():
    prediction, target = image(100)
    target[0, 0] = 1  # missed
    metric = WorstImages(Split(tuple("abc"), IGNORED))
    (miou,) = metric.count(torch.zeros(0), prediction[None], target[None])["mious"].tolist()
    assert miou == pytest.approx((99 / 100 + 0) / 2)


def test_a_split_without_labels_has_no_value():
    values = WorstImages(Split(tuple("ab"))).values({"mious": torch.tensor([math.nan, math.nan])})
    assert math.isnan(values["worst_images_miou"]) and values["worst_images_numbers"] == []
