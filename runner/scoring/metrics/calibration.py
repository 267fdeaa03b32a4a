"""Calibration: whether a network is right as often as it is sure."""

import torch
from torch import Tensor

BINS = 15


def calibration_counts(probabilities: Tensor, target: Tensor, ignore_index: int, bins: int = BINS) -> Tensor:
    """Per bin of confidence how many pixels there are, the sum of their confidences, and how many are right.

    Confidence is the largest probability of a pixel. The sums of images add up.

    Args:
        probabilities: (B, K, H, W), sums of 1 over K. target: (B, H, W); ignored pixels are not counted.
        bins: of equal width, bin i holding confidences in (i / bins, (i + 1) / bins].

    Returns:
        (bins, 3) float64.
    """
    confidence, prediction = probabilities.max(1)  # (B, H, W)
    counted = (target != ignore_index) & (target >= 0) & (target < probabilities.shape[1])
    sure = confidence[counted].double()
    right = (prediction == target)[counted].double()
    place = ((sure * bins).ceil().long() - 1).clamp(0, bins - 1)
    each = torch.stack([torch.ones_like(sure), sure, right], dim=1)  # (N, 3)
    return torch.zeros(bins, 3, dtype=torch.float64, device=target.device).index_add_(0, place, each)


def calibration_error(counts: Tensor) -> float:
    """Expected calibration error, in 0..1; NaN where nothing was counted.

        ECE = sum_b n_b / N * |right_b / n_b - confidence_b / n_b|

    Source: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017, eq. 3; here over all
    pixels of a split that have a label.

    Args:
        counts: (bins, 3), the sum of `calibration_counts`: pixels, sums of confidence, right ones.
    """
    pixels, sure, right = counts.unbind(1)
    return ((right - sure).abs().sum() / pixels.sum()).item()


def reliability(counts: Tensor) -> str:
    """A plain-text table of the bins that hold pixels: share of all, mean confidence and accuracy, in percent."""
    lines = ["confidence     % pixels  mean confidence  accuracy"]
    for index, (pixels, sure, right) in enumerate(counts.tolist()):
        if pixels:
            low, high = 100 * index / len(counts), 100 * (index + 1) / len(counts)
            share = 100 * pixels / counts[:, 0].sum().item()
            shares = f"{share:>6.2f}  {100 * sure / pixels:>15.2f}  {100 * right / pixels:>8.2f}"
            lines.append(f"{low:5.1f} .. {high:5.1f}   {shares}")
    return "\n".join(lines)
