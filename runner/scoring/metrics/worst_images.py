"""The worst images: what a mean over a whole split hides."""

from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from segkd.runner.console import percent
from segkd.runner.scoring.metrics._metric import Metric, Split, Values
from segkd.runner.scoring.metrics.confusion import areas, confusion_matrices

NAMED = 10  # images at most that the text names


class WorstImages(Metric):
    """Mean IoU of the images with the lowest IoU.

        mIoU_i = mean over the classes in the label of image i of I / U, counted in this image alone
        value  = mean of the max(1, floor(share * N)) lowest of the N values mIoU_i

    Images without a labelled pixel have no value and are not among the N. Source: Wang et al., Revisiting Evaluation
    Metrics for Semantic Segmentation, NeurIPS 2023, the worst-case metrics of mIoU^I. Their code scores the foreground
    alone where there are two classes; here both count.

    Args:
        share: of the images, in 0..1.

    Values:
        worst_images_miou. worst_images_all: the mean over all N images. worst_images_numbers: which images are the
            worst, in the data set's order counted from 0, the worst first.

    Counts:
        mious: (N,) float64.
    """

    reads_scores = False
    per_image = ("mious",)
    headline = {"worst_images_miou": "mIoU of the worst images (%)"}

    def __init__(self, split: Split, *, share: Annotated[float, Gt(0), Le(1)] = 0.05):
        super().__init__(split)
        self.share = share

    def count(self, scores: Tensor | None, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        matrices = confusion_matrices(prediction, target, self.split.num_classes, self.split.ignore_index)
        correct, labelled, predicted = areas(matrices).double().unbind(-1)  # (B, K)
        iou = (correct / (labelled + predicted - correct)).where(labelled > 0, torch.nan)
        return {"mious": iou.nanmean(1)}

    def values(self, counts: dict[str, Tensor]) -> Values:
        lowest, numbers = counts["mious"].sort(stable=True)  # NaN is sorted behind all numbers
        known = int(lowest.isfinite().sum())
        worst = max(1, int(self.share * known))
        return {
            "worst_images_miou": lowest[:worst].mean().item(),
            "worst_images_all": lowest[:known].mean().item(),
            "worst_images_numbers": numbers[: min(worst, known)].tolist(),
        }

    def text(self, values: Values) -> str:
        numbers = values["worst_images_numbers"]
        more = ", ..." if len(numbers) > NAMED else ""
        return (
            f"mIoU of single images: mean {percent(values['worst_images_all'])} %, mean of the {len(numbers)} worst "
            f"{percent(values['worst_images_miou'])} % (counted from 0: {', '.join(map(str, numbers[:NAMED]))}{more})"
        )
