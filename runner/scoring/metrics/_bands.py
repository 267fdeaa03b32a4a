"""Bands along the contours of label maps."""

import torch
from torch import Tensor


def band(labels: Tensor, width: int, *, border: bool) -> Tensor:
    """The pixels within `width` of a contour: the square of side 2 * width + 1 around them holds another label.

    Args:
        border: the border of the image is a contour too.

    Shapes:
        labels: (B, H, W) integers -> (B, H, W) bool.
    """
    if not border:  # an edge that goes on outside has no contour there, and the copies have none of their own
        sides = ((torch.arange(-width, side + width, device=labels.device), side) for side in labels.shape[-2:])
        rows, columns = (positions.clamp(0, side - 1) for positions, side in sides)
        return band(labels[:, rows][:, :, columns], width, border=True)[:, width:-width, width:-width]
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
