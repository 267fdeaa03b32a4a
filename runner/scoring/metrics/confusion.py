"""The confusion matrix of a split, and every score that follows from it. Each evaluation computes this metric."""

from typing import Literal

import torch
from torch import Tensor

from segkd.runner.console import percent
from segkd.runner.scoring.metrics._metric import Metric, Values, ratios, table


class Confusion(Metric):
    """Mean IoU and its relatives, all shares in 0..1. Their names have no prefix.

    Values:
        miou: mean over classes of I / U. miou_present: the same over those that are labelled or predicted anywhere,
            whatever absent ones count. class_accuracy: mean over classes of I / label pixels.
        pixel_accuracy: correct / counted pixels. fwiou: IoU weighted by each class's share of the label.
        dice: mean over classes of 2 I / (label + predicted pixels).
        iou_per_class, accuracy_per_class, dice_per_class: K values; NaN where the denominator is empty and absent
            classes are skipped.

    Counts:
        matrix: (K, K) int64, rows = target, columns = prediction.
        images: (N, K, 3) int64, `areas` of each image. Their sums over the images give the split's scores, so
            comparisons of runs can resample the images.
    """

    reads_scores = False
    per_image = ("images",)
    names = ("miou", "miou_present", "class_accuracy", "pixel_accuracy", "fwiou", "dice")
    names_per_class = ("iou_per_class", "accuracy_per_class", "dice_per_class")

    def count(self, scores: Tensor | None, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        matrices = confusion_matrices(prediction, target, self.split.num_classes, self.split.ignore_index)
        return {"matrix": matrices.sum(0), "images": areas(matrices)}

    def values(self, counts: dict[str, Tensor]) -> Values:
        return scores(counts["matrix"], self.split.absent)

    def text(self, values: Values) -> str:
        lines = list(zip(self.split.class_names, *(values[name] for name in self.names_per_class)))
        lines.append(("mean", values["miou"], values["class_accuracy"], values["dice"]))
        rows = [[name, *map(percent, shares)] for name, *shares in lines]
        mean = percent(values["miou"])
        present = percent(values.get("miou_present", values["miou"]))  # a row of before has none
        told = f"mean IoU of the classes that occur {present} %, " if present != mean else ""
        return (
            f"{table(['class', 'IoU (%)', 'accuracy (%)', 'Dice (%)'], rows)}\n\n"
            f"{told}pixel accuracy {percent(values['pixel_accuracy'])} %, "
            f"frequency-weighted IoU {percent(values['fwiou'])} %"
        )


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Counts pixels by (target class, predicted class).

    Matrices of images, batches and processes add up; scores are taken from the sum.

    Args:
        prediction: (..., H, W) integer classes 0..K-1. target: the same shape and device; pixels that are
            ignore_index or outside 0..K-1 are not counted.

    Returns:
        (K, K) int64 on the same device, rows = target, columns = prediction.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction is {tuple(prediction.shape)} but target is {tuple(target.shape)}: "
            "resize the logits to the label before the argmax"
        )
    target = target.long()
    counted = (target != ignore_index) & (target >= 0) & (target < num_classes)
    # pixels not counted fall into one bin behind the matrix: cheaper than gathering the others
    cell = (target * num_classes).add_(prediction).masked_fill_(~counted, num_classes**2)
    counts = torch.bincount(cell.flatten(), minlength=num_classes**2 + 1)
    return counts[: num_classes**2].view(num_classes, num_classes)


def confusion_matrices(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """(B, K, K): the confusion matrix of each image of (B, H, W)."""
    matrices = target.new_zeros(len(target), num_classes, num_classes, dtype=torch.int64)
    for matrix, *image in zip(matrices, prediction, target):
        matrix += confusion_matrix(*image, num_classes, ignore_index)
    return matrices


def areas(matrices: Tensor) -> Tensor:
    """(..., K, K) -> (..., K, 3): for each class its intersection, label pixels and predicted pixels, i, l and p.

    They add up like the matrices, and the IoU is i / (l + p - i).
    """
    return torch.stack([matrices.diagonal(dim1=-2, dim2=-1), matrices.sum(-1), matrices.sum(-2)], dim=-1)


def scores(matrix: Tensor, absent: Literal["skip", "zero"] = "skip") -> Values:
    """Every score of a confusion matrix, in float64.

    Args:
        matrix: (K, K) counts, rows = target, columns = prediction.
        absent: what a class counts whose denominator is empty. `skip`: it is left out of the mean (mmsegmentation,
            AICSD); a class that is predicted but never labelled has IoU 0 and is left out of class accuracy only.
            `zero`: it counts as 0 (CIRKD, DIST, TriKD; on COCO-Stuff 11 of 182 classes never occur).

    Returns:
        The values of `Confusion`. Where not a single pixel was counted, a mean is NaN, but `fwiou` is the sum over the
        labelled classes and as such 0, as in AICSD's code.
    """
    matrix = matrix.detach().double().cpu()
    correct, labelled, predicted = areas(matrix).unbind(-1)
    iou = ratios(correct, labelled + predicted - correct, absent)
    accuracy = ratios(correct, labelled, absent)
    dice = ratios(2 * correct, labelled + predicted, absent)
    pixels = matrix.sum()
    return {
        "miou": iou.nanmean().item(),
        "miou_present": ratios(correct, labelled + predicted - correct, "skip").nanmean().item(),
        "class_accuracy": accuracy.nanmean().item(),
        "pixel_accuracy": (correct.sum() / pixels).item(),
        "fwiou": ((labelled / pixels.clamp_min(1)) * iou.nan_to_num(0.0)).sum().item(),
        "dice": dice.nanmean().item(),
        "iou_per_class": iou.tolist(),
        "accuracy_per_class": accuracy.tolist(),
        "dice_per_class": dice.tolist(),
    }
