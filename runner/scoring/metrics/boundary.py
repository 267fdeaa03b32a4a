"""Boundary IoU: how well contours are met, whatever the size of what they surround."""

from typing import Literal

import torch
from torch import Tensor

SHARE = 0.02  # of the image's diagonal, as the paper's default


def default_width(size: tuple[int, int]) -> int:
    """Pixels that 2 % of the diagonal of an image of this height and width are, at least 1."""
    return max(1, round(SHARE * (size[0] ** 2 + size[1] ** 2) ** 0.5))


def band(labels: Tensor, width: int) -> Tensor:
    """The pixels within `width` of a contour of their own class, on its inner side.

    As in the authors' code a class is eroded `width` times by a square of 3 x 3, and what is outside the image belongs
    to no class: a pixel is in the band if the square of side 2 * width + 1 around it holds another class or reaches
    out of the image.

    Shapes:
        labels: (B, H, W) integers -> (B, H, W) bool.
    """
    height, width_of_image = labels.shape[-2:]
    inside = torch.zeros_like(labels, dtype=torch.bool)
    if min(height, width_of_image) <= 2 * width:
        return ~inside
    across = _changes_in_square(labels[:, :, 1:] != labels[:, :, :-1], 2 * width + 1, 2 * width)
    down = _changes_in_square(labels[:, 1:] != labels[:, :-1], 2 * width, 2 * width + 1)
    inside[:, width : height - width, width : width_of_image - width] = (across + down) == 0
    return ~inside


def _changes_in_square(changes: Tensor, rows: int, columns: int) -> Tensor:
    """How many are true in each rectangle of rows x columns: four looks at a table of sums, whatever its size."""
    table = torch.nn.functional.pad(changes.int().cumsum(1).cumsum(2), (1, 0, 1, 0))
    return (
        table[:, rows:, columns:]
        - table[:, :-rows, columns:]
        - table[:, rows:, :-columns]
        + table[:, :-rows, :-columns]
    )


def boundary_counts(
    prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int, width: int | None = None
) -> Tensor:
    """Per class the pixels of the two bands' intersection and union, which add up over images.

    Ignored pixels are taken out of both maps first, so a contour along them is in both.

    Args:
        prediction: (B, H, W) classes. target: (B, H, W) classes or ignore_index.
        width: of the bands in pixels; None takes 2 % of the image's diagonal.

    Returns:
        (K, 2) int64: |G_d and P_d|, |G_d or P_d|.
    """
    width = width or default_width(target.shape[-2:])
    ignored = (target == ignore_index) | (target < 0) | (target >= num_classes)
    # void is one class more, which both maps have at the same pixels
    maps = [labels.masked_fill(ignored, num_classes) for labels in (prediction, target)]
    # (B, H, W): the class of a pixel in its band, void elsewhere
    bands = [labels.masked_fill(~band(labels, width), num_classes) for labels in maps]
    met = bands[0].masked_fill(bands[0] != bands[1], num_classes)
    areas = [torch.bincount(classes.flatten(), minlength=num_classes + 1)[:num_classes] for classes in (*bands, met)]
    return torch.stack([areas[2], areas[0] + areas[1] - areas[2]], dim=1)


def boundary_iou(counts: Tensor, absent: Literal["skip", "zero"] = "skip") -> tuple[float, list[float]]:
    """Mean over classes, and per class, of the boundary IoU in 0..1.

        Boundary IoU = |G_d and P_d| / |G_d or P_d|

    with G_d and P_d the pixels of a class in label and prediction that lie within d of its contour there, counted over
    the whole split before the division, as IoU is here. Source: Cheng, Girshick, Dollar, Berg, Kirillov, Boundary IoU,
    CVPR 2021, arXiv 2103.16562, where single objects are scored and averaged.

    Args:
        counts: (K, 2), the sum of `boundary_counts`.
        absent: a class in neither is left out of the mean (NaN), or counts 0.
    """
    ratio = counts[:, 0].double() / counts[:, 1].double()
    if absent == "zero":
        ratio = ratio.nan_to_num(0.0)
    return ratio.nanmean().item(), ratio.tolist()
