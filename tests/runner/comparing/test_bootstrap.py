"""mIoU from counts, and the bootstrap over images against bare loops and what can be told in advance."""

import numpy as np
import pytest
import torch

from segkd.runner.comparing.bootstrap import image_draws, iou, mean_iou, resampled_gains
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


def test_every_resample_has_as_many_images_as_the_split():
    draws = image_draws(13, 50)
    assert draws.shape == (50, 13) and (draws.sum(1) == 13).all() and len({tuple(row) for row in draws}) == 50
    assert (draws == image_draws(13, 50)).all()


@pytest.mark.parametrize("absent", ["skip", "zero"])
def test_resampled_gains_are_those_of_a_bare_loop(absent):
    ours, theirs = random_counts(7, 5, seed=0, runs=3), random_counts(7, 5, seed=1, runs=2)
    draws = image_draws(7, 20)

    def miou(run, weights):
        values = []
        for k in range(5):
            i, l, p = (sum(int(w) * int(image[k, part]) for w, image in zip(weights, run)) for part in range(3))
            if l + p - i or absent == "zero":
                values.append(i / (l + p - i) if l + p - i else 0.0)
        return sum(values) / len(values)

    def mean(runs, weights):
        return sum(miou(run, weights) for run in runs) / len(runs)

    expected = [mean(ours, weights) - mean(theirs, weights) for weights in draws]
    assert resampled_gains(ours, theirs, absent, draws) == pytest.approx(expected, abs=1e-12)


def test_the_spread_is_that_of_a_mean_over_images():
    # one class, 100 label pixels an image, none wrongly predicted: the gain is a mean over the images, whose
    # standard deviation over resamples is that of the images / sqrt(N)
    found = np.random.default_rng(0).integers(20, 80, 200)
    ours = np.stack([found, np.full(200, 100), found], -1)[None, :, None]
    theirs = np.zeros_like(ours) + np.array([0, 100, 0])
    gains = resampled_gains(ours, theirs, "skip", image_draws(200, 4000))
    assert gains.mean() == pytest.approx(found.mean() / 100, abs=2e-3)
    assert gains.std() == pytest.approx(found.std() / 100 / 200**0.5, rel=0.05)
