"""How much of a gain is chance: mIoU from counts of single images, and what it is on other draws of seeds and images."""

from typing import Literal

import numpy as np

DRAWS = 2000  # resamples behind an interval


def iou(counts: np.ndarray) -> np.ndarray:
    """(..., K, 3) counts i, l, p -> (..., K) i / (l + p - i), NaN for a class in neither labels nor predictions."""
    both, union = counts[..., 0], counts[..., 1] + counts[..., 2] - counts[..., 0]
    return np.divide(both, union, out=np.full(both.shape, np.nan), where=union > 0)


def mean_iou(counts: np.ndarray, absent: Literal["skip", "zero"]) -> np.ndarray:
    """(..., K, 3) counts -> (...) mIoU; absent classes are left out of the mean, or 0 in it. NaN: none is there."""
    values = iou(counts)
    known = np.isfinite(values).sum(-1)
    classes = values.shape[-1] if absent == "zero" else np.where(known > 0, known, np.nan)
    return np.nansum(values, -1) / classes


def resamples(count: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """(R, M): how often each of M things is in each of R resamples of M things with replacement."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)


def resampled_gains(
    counts: np.ndarray,
    baseline: np.ndarray,
    absent: Literal["skip", "zero"],
    images: np.ndarray,
    seeds: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """The gain in each resample of the seeds and of the images (Owen 2007, "The pigeonhole bootstrap").

    With v[r, s] the times seed s is in resample r, w[r, n] the times image n is, and i, l, p of an image, a class and
    a run,

        mIoU[r, s] = mean over classes of  sum_n w i / (sum_n w l + sum_n w p - sum_n w i)
        gain[r] = sum_s v mIoU[r, s] / S  -  the same of the baseline, with the same w

    All runs are scored on the same images, so that a resample has the same images for each of its runs. Its seeds are
    the same for both, too, if both are given the same v, as only runs of the same seeds should be. Quantiles of the
    gains make an interval that is too narrow where seeds are few, since S seeds cannot spread further than those S
    (tests/runner/comparing/test_bootstrap.py measures it).

    Args:
        counts, baseline: (S, N, K, 3), the two's runs; their S may differ. images: (R, N). seeds: (R, S) of each.

    Returns:
        (R,) gains as shares; NaN where no image of a resample has a labelled pixel and absent classes are left out.
    """
    means = []
    for given, drawn in zip((counts, baseline), seeds, strict=True):
        runs, count, classes, _ = given.shape
        flat = given.transpose(1, 0, 2, 3).reshape(count, -1)  # (N, S K 3)
        sums = (images.astype(float) @ flat).reshape(len(images), runs, classes, 3)
        means.append((drawn * mean_iou(sums, absent)).sum(1) / runs)  # (R,)
    return means[0] - means[1]
