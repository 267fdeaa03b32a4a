"""How much of a gain is chance: mIoU from counts of single images, and what it is on other draws of the images."""

from typing import Literal

import numpy as np

DRAWS = 2000  # resamples of the images behind an interval


def iou(counts: np.ndarray) -> np.ndarray:
    """(..., K, 3) counts i, l, p -> (..., K) i / (l + p - i), NaN for a class in neither labels nor predictions."""
    both, union = counts[..., 0], counts[..., 1] + counts[..., 2] - counts[..., 0]
    return np.divide(both, union, out=np.full(both.shape, np.nan), where=union > 0)


def mean_iou(counts: np.ndarray, absent: Literal["skip", "zero"]) -> np.ndarray:
    """(..., K, 3) counts -> (...) mIoU; absent classes are left out of the mean, or 0 in it."""
    values = iou(counts)
    classes = values.shape[-1] if absent == "zero" else (~np.isnan(values)).sum(-1)
    return np.nansum(values, -1) / classes


def image_draws(images: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(R, N): how often each of N images is in each of R resamples of N images with replacement."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)


def resampled_gains(
    counts: np.ndarray, baseline: np.ndarray, absent: Literal["skip", "zero"], draws: np.ndarray
) -> np.ndarray:
    """The gain in each resample of the images: the paired bootstrap (Efron and Tibshirani 1993, chapter 8).

    With w[r, n] the times image n is in resample r, and i, l, p of an image, a class and a run s,

        mIoU[r, s] = mean over classes of  sum_n w i / (sum_n w l + sum_n w p - sum_n w i)
        gain[r] = mean over s of mIoU[r, s]  -  the same of the baseline, with the same w

    Quantiles of the gains tell how the gain depends on which images are in the split, not on the seeds.

    Args:
        counts, baseline: (S, N, K, 3), the two's runs; their S may differ. draws: (R, N).

    Returns:
        (R,) gains as shares.
    """
    means = []
    for given in (counts, baseline):
        runs, images, classes, _ = given.shape
        flat = given.transpose(1, 0, 2, 3).reshape(images, -1)  # (N, S K 3)
        sums = (draws.astype(float) @ flat).reshape(len(draws), runs, classes, 3)
        means.append(mean_iou(sums, absent).mean(1))  # (R,)
    return means[0] - means[1]
