"""mIoU from counts, and the bootstrap over seeds and images against bare loops and what can be told in advance."""

import numpy as np
import pytest
import torch

from segkd.runner.comparing.bootstrap import iou, mean_iou, resampled_gains, resamples
from segkd.runner.scoring.metrics.confusion import confusion_matrix, scores


def random_counts(images: int, classes: int, seed: int, runs: int = 1) -> np.ndarray:
    """(S, N, K, 3) counts in which labels are the same for all runs, and some classes are missing in an image."""
    draw = np.random.default_rng(seed)
    label = np.random.default_rng(9).integers(0, 50, (images, classes)) * (np.arange(classes) != 2)
    both = (label * draw.random((runs, images, classes))).astype(int)
    predicted = both + draw.integers(0, 20, both.shape) * (np.arange(classes) != 2)
    return np.stack([both, np.broadcast_to(label, both.shape), predicted], -1)


@pytest.mark.parametrize("absent", ["skip", "zero"])
def test_iou_from_counts_is_that_of_the_confusion_matrix(absent):
    draw = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 4, (2, 20, 20), generator=draw)
    target = torch.randint(0, 4, (2, 20, 20), generator=draw)  # class 4 of 5 never occurs
    matrix = confusion_matrix(prediction, target, 5, 255)
    counts = torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)], dim=1).numpy()
    expected = scores(matrix, absent)
    assert mean_iou(counts, absent) == pytest.approx(expected["miou"], rel=1e-12)
    assert np.nan_to_num(iou(counts), nan=-1)[:4] == pytest.approx(expected["iou_per_class"][:4])
    assert np.isnan(iou(counts)[4])


def test_every_resample_has_as_many_things_as_there_are():
    draws = resamples(13, 0, 50)
    assert draws.shape == (50, 13) and (draws.sum(1) == 13).all() and len({tuple(row) for row in draws}) == 50
    assert (draws == resamples(13, 0, 50)).all() and (draws != resamples(13, 1, 50)).any()


@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("runs", [(3, 3), (3, 2)])
def test_resampled_gains_are_those_of_a_bare_loop_over_seeds_and_images(absent, runs):
    given = [random_counts(7, 5, seed=seed, runs=count) for seed, count in enumerate(runs)]
    images, seeds = resamples(7, 0, 20), [resamples(count, 1 + seed, 20) for seed, count in enumerate(runs)]

    def miou(run, drawn):
        values = []
        for k in range(5):
            i, l, p = (sum(int(run[n, k, part]) for n in drawn) for part in range(3))
            if l + p - i or absent == "zero":
                values.append(i / (l + p - i) if l + p - i else 0.0)
        return sum(values) / len(values)

    def listed(times):
        return [index for index, count in enumerate(times) for _ in range(count)]

    expected = []
    for r in range(20):
        means = []
        for of_one, times in zip(given, seeds):
            found = [miou(of_one[seed], listed(images[r])) for seed in listed(times[r])]
            means.append(sum(found) / len(found))
        expected.append(means[0] - means[1])
    assert resampled_gains(*given, absent, images, seeds) == pytest.approx(expected, abs=1e-12)


def one_class(found: np.ndarray) -> np.ndarray:
    """(S, N) shares found of 100 label pixels an image, none wrongly predicted -> (S, N, 1, 3): IoU is their mean."""
    return np.stack([100 * found, np.full(found.shape, 100), 100 * found], -1)[:, :, None]


def test_the_spread_is_that_of_a_mean_over_images():
    # over resamples of the images alone the mean of N shares has their standard deviation / sqrt(N)
    found = np.random.default_rng(0).uniform(0.2, 0.8, (1, 200))
    gains = resampled_gains(
        one_class(found), one_class(0 * found), "skip", resamples(200, 0, 4000), 2 * [np.ones((4000, 1))]
    )
    assert gains.mean() == pytest.approx(found.mean(), abs=2e-3)
    assert gains.std() == pytest.approx(found.std() / 200**0.5, rel=0.05)


@pytest.mark.parametrize("seeds, of_seeds, of_images, held", [
    (2, 0.02, 0.0, 0.50), (3, 0.02, 0.0, 0.76), (5, 0.02, 0.0, 0.83), (10, 0.02, 0.0, 0.91),  # what the table says
    (3, 0.0, 0.1, 0.95),
    (8, 0.02, 0.1, 0.92),
])  # fmt: skip
def test_how_often_an_interval_holds_the_true_gain(seeds, of_seeds, of_images, held):
    # a gain of 0.05, a part of each seed's own and a part of each image's own
    draw, images, comparisons = np.random.default_rng(0), 40, 400
    drawn, both = resamples(images, 0, 500), 2 * [resamples(seeds, 1, 500)]
    holds = 0
    for _ in range(comparisons):
        own = of_seeds * draw.normal(size=(seeds, 1)) + of_images * draw.normal(size=images)
        gains = resampled_gains(one_class(0.55 + own), one_class(np.full_like(own, 0.5)), "skip", drawn, both)
        low, high = np.quantile(gains, [0.025, 0.975])
        holds += low <= 0.05 <= high
    assert holds / comparisons == pytest.approx(held, abs=0.04)
