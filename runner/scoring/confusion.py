"""One confusion matrix per evaluation, and every score that follows from it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segkd.runner.console import one_line, percent


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
    cell = torch.where(counted, target * num_classes + prediction.long(), num_classes**2)
    counts = torch.bincount(cell.flatten(), minlength=num_classes**2 + 1)
    return counts[: num_classes**2].view(num_classes, num_classes)


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix, all in 0..1 (not percent).

    Attributes:
        miou: mean over classes of I / U. class_accuracy: mean over classes of I / label pixels.
        pixel_accuracy: correct / counted pixels. fwiou: IoU weighted by each class's share of the label.
        dice: mean over classes of 2 I / (label + predicted pixels).
        iou_per_class, accuracy_per_class, dice_per_class: K values; NaN where the denominator is empty and
            absent classes are skipped.
    """

    miou: float
    class_accuracy: float
    pixel_accuracy: float
    fwiou: float
    dice: float
    iou_per_class: list[float]
    accuracy_per_class: list[float]
    dice_per_class: list[float]


def scores(matrix: Tensor, absent: Literal["skip", "zero"] = "skip") -> Scores:
    """Every score of a confusion matrix, in float64.

    Args:
        matrix: (K, K) counts, rows = target, columns = prediction.
        absent: what a class counts whose denominator is empty. `skip`: it is left out of the mean (mmsegmentation,
            AICSD); a class that is predicted but never labelled has IoU 0 and is left out of class accuracy only.
            `zero`: it counts as 0 (CIRKD, DIST, TriKD; on COCO-Stuff 11 of 182 classes never occur).

    Returns:
        Scores; NaN means where not a single pixel was counted.
    """
    matrix = matrix.detach().double().cpu()
    correct = matrix.diagonal()
    labelled, predicted = matrix.sum(1), matrix.sum(0)
    union = labelled + predicted - correct
    ratios = [correct / union, correct / labelled, 2 * correct / (labelled + predicted)]  # 0 / 0 is NaN
    if absent == "zero":
        ratios = [ratio.nan_to_num(0.0) for ratio in ratios]
    iou, accuracy, dice = ratios
    pixels = matrix.sum()
    return Scores(
        miou=iou.nanmean().item(),
        class_accuracy=accuracy.nanmean().item(),
        pixel_accuracy=(correct.sum() / pixels).item(),
        fwiou=((labelled / pixels) * iou.nan_to_num(0.0)).sum().item(),
        dice=dice.nanmean().item(),
        iou_per_class=iou.tolist(),
        accuracy_per_class=accuracy.tolist(),
        dice_per_class=dice.tolist(),
    )


def table(result: Scores, class_names: tuple[str, ...] | list[str]) -> str:
    """Plain-text table in percent: one line per class, the means below; "-" where a class has no value."""
    lines = list(
        zip(
            map(one_line, class_names),
            result.iou_per_class,
            result.accuracy_per_class,
            result.dice_per_class,
            strict=True,
        )
    )
    lines.append(("mean", result.miou, result.class_accuracy, result.dice))
    width = max(len(line[0]) for line in lines)
    text = [f"{'class':<{width}}     IoU  accuracy    Dice"]
    for name, *values in lines:
        iou, accuracy, dice = map(percent, values)
        text.append(f"{name:<{width}}  {iou:>6}  {accuracy:>8}  {dice:>6}")
    overall = f"pixel accuracy {percent(result.pixel_accuracy)}, frequency-weighted IoU {percent(result.fwiou)}"
    return "\n".join([*text, overall])
