"""Weights that lift rare classes, from how often each class occurs."""

import numpy as np


def class_histogram(targets: np.ndarray, num_classes: int) -> np.ndarray:
    """(K,) int64 pixel counts of train ids 0..K-1; every other value (255) is left out."""
    counts = np.bincount(np.asarray(targets).reshape(-1), minlength=256)
    return counts[:num_classes].astype(np.int64)


def class_weights(histogram: np.ndarray, constant: float = 1.02) -> np.ndarray:
    """One weight per class: 1 / ln(constant + share of the class among all counted pixels).

    Source: ENet (Paszke et al., 2016, arXiv 1606.02147), section 5.2; AICSD's code uses the same rule.

    Args:
        histogram: (K,) pixels of each class over the training set.
        constant: must exceed 1; 1.02 keeps the weights between about 1.4 and 50.5.
    Returns:
        (K,) float64; a set without any counted pixel gives every class the weight of an absent one.
    """
    if constant <= 1:
        raise ValueError(f"constant: must exceed 1, got {constant}")
    histogram = np.asarray(histogram, dtype=np.float64)
    return 1 / np.log(constant + histogram / max(histogram.sum(), 1.0))
