"""Classes as regions of a feature map: labels at its size, and what each class's pixels sum to."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LabelResize = Literal["nearest", "bilinear_trunc"]


def labels_at(target: Tensor, size: tuple[int, int], how: LabelResize = "nearest") -> Tensor:
    """Labels at the size of a feature map.

    Args:
        how: `nearest` takes the pixel below the upper left corner of the cell, as the published codes do;
            `bilinear_trunc` interpolates the ids as numbers and cuts off the fraction (RMRKD's released code: borders
            get ids of classes that are not there).

    Shapes:
        target: (B, H, W) int64 -> (B, h, w) int64.
    """
    if tuple(target.shape[-2:]) == tuple(size):
        return target
    if how == "nearest":
        # the same rule as F.interpolate's, on integers: no detour through floats of a million pixels
        rows = (torch.arange(size[0], device=target.device) * (target.shape[1] / size[0])).long()
        columns = (torch.arange(size[1], device=target.device) * (target.shape[2] / size[1])).long()
        return target[:, rows[:, None], columns]
    return F.interpolate(target[:, None].float(), size=tuple(size), mode="bilinear", align_corners=False)[:, 0].long()


def class_index(
    target: Tensor, size: tuple[int, int], num_classes: int, ignore_index: int, how: LabelResize = "nearest"
) -> Tensor:
    """The class of each position of a map of that size, K where it has none: (B, H, W) -> (B, N)."""
    labels = labels_at(target, size, how).flatten(1)  # (B, N)
    return labels.where((labels >= 0) & (labels < num_classes) & (labels != ignore_index), num_classes)


def one_hot(index: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """(B, N) in 0..K -> (B, K, N) of 0 and 1; K is 0 in every class."""
    hot = torch.zeros(len(index), num_classes + 1, index.shape[-1], dtype=dtype, device=index.device)
    return hot.scatter_(1, index[:, None], 1)[:, :num_classes]


def class_masks(
    target: Tensor, maps: Tensor, num_classes: int, ignore_index: int, how: LabelResize = "nearest"
) -> Tensor:
    """Where each class is on a map, as 0 and 1 of the map's type: (B, H, W) and (B, C, h, w) -> (B, K, N)."""
    return one_hot(class_index(target, maps.shape[-2:], num_classes, ignore_index, how), num_classes, maps.dtype)


def class_sums(features: Tensor, masks: Tensor) -> Tensor:
    """What each class's pixels sum to, per image, in one matrix product: (B, C, N) and (B, K, N) -> (B, K, C)."""
    # in this order the gradient of the features comes out contiguous: a copy of the map less for what comes before
    return (features @ masks.mT).mT


def class_centres(features: Tensor, masks: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean feature of each class's pixels per image, sum / (count + eps); 0 for a class the image does not have.

    Shapes:
        features: (B, C, N), masks: (B, K, N) -> (B, K, C).
    """
    return class_sums(features, masks) / (masks.sum(-1, keepdim=True) + eps)
