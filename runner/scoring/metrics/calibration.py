"""Calibration: whether a network is right as often as it is sure."""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from segkd.runner.console import percent
from segkd.runner.scoring.metrics._metric import Metric, Split, Values, table


class Calibration(Metric):
    """Expected calibration error, in 0..1; NaN where nothing was counted.

        ECE = sum_b n_b / N * |right_b / n_b - confidence_b / n_b|

    Confidence is the largest probability of a pixel. Source: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern
    Neural Networks, ICML 2017, eq. 3; here over all pixels of a split that have a label.

    Args:
        bins: of equal width, bin i holding confidences in (i / bins, (i + 1) / bins].

    Values:
        calibration_error. calibration_bins: the counts, [pixels, sum of confidences, right ones] of each bin.

    Counts:
        bins: (bins, 3) float64.
    """

    headline = {"calibration_error": "calibration error (%)"}

    def __init__(self, split: Split, *, bins: Annotated[int, Interval(ge=1, le=10**4)] = 15):
        super().__init__(split)
        self.bins = bins

    def count(self, scores: Tensor, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        probabilities = scores if self.split.average == "softmax" else scores.softmax(1)
        counted = self.split.is_labelled(target)
        # of the probabilities, where rounding may tie what the scores order
        confidence, chosen = probabilities.max(1)  # (B, H, W)
        sure, right = confidence[counted].double(), (chosen == target)[counted].double()  # (N,)
        place = ((sure * self.bins).ceil().long() - 1).clamp(0, self.bins - 1)
        each = torch.stack([torch.ones_like(sure), sure, right], dim=1)  # (N, 3)
        return {"bins": each.new_zeros(self.bins, 3).index_add_(0, place, each)}

    def values(self, counts: dict[str, Tensor]) -> Values:
        pixels, sure, right = counts["bins"].unbind(1)
        error = (right - sure).abs().sum() / pixels.sum()
        return {"calibration_error": error.item(), "calibration_bins": counts["bins"].tolist()}

    def text(self, values: Values) -> str:
        bins = values["calibration_bins"]
        total = sum(pixels for pixels, _, _ in bins)
        rows = [
            [f"{100 * index / len(bins):.1f} .. {100 * (index + 1) / len(bins):.1f}"]
            + [percent(share) for share in (pixels / total, sure / pixels, right / pixels)]
            for index, (pixels, sure, right) in enumerate(bins)
            if pixels
        ]
        columns = ["confidence (%)", "pixels (%)", "mean confidence (%)", "accuracy (%)"]
        error = percent(values["calibration_error"])
        return f"{table(columns, rows)}\n\nexpected calibration error {error} %, {len(bins)} bins"
