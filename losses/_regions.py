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


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """(B, h, w) -> (B, K, N) of 0 and 1; pixels outside 0..K-1 are 0 in every class."""
    counted = (labels >= 0) & (labels < num_classes)
    index = labels.where(counted, num_classes).flatten(1)[:, None]  # (B, 1, N)
    hot = torch.zeros(len(labels), num_classes + 1, index.shape[-1], dtype=dtype, device=labels.device)
    return hot.scatter_(1, index, 1)[:, :num_classes]


def class_masks(
    target: Tensor, maps: Tensor, num_classes: int, ignore_index: int, how: LabelResize = "nearest"
) -> Tensor:
    """Where each class is on a map, as 0 and 1 of the map's type; ignored pixels are in no class.

    Shapes:
        target: (B, H, W), maps: (B, C, h, w) -> (B, K, N).
    """
    labels = labels_at(target, maps.shape[-2:], how)
    return one_hot(labels.masked_fill(labels == ignore_index, -1), num_classes, maps.dtype)


def class_sums(features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """What each class's pixels sum to, and how many there are, per image, in one matrix product.

    Shapes:
        features: (B, C, N), masks: (B, K, N) -> (B, K, C) and (B, K).
    """
    # in this order the gradient of the features comes out contiguous: a copy of the map less for what comes before
    return (features @ masks.mT).mT, masks.sum(-1)


def class_centres(features: Tensor, masks: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean feature of each class's pixels per image, sum / (count + eps); 0 for a class the image does not have.

    Shapes:
        features: (B, C, N), masks: (B, K, N) -> (B, K, C).
    """
    sums, count = class_sums(features, masks)
    return sums / (count[..., None] + eps)
