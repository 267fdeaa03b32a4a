"""Pixels at the border of two classes, as the codes that teach a network borders make them from the labels."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

EdgeRule = Literal["neighbours", "canny"]

# of the tangents of 22.5 and 67.5 degrees, in OpenCV's fixed point
TANGENT, ONE = 13573, 1 << 15
LEVELS = (1, 2, 4)  # strides at which STDC looks for details
SHARES = (0.6, 0.3, 0.1)  # what each of them counts
DETAIL_THRESHOLD = 0.1


def edges_of(target: Tensor, ignore_index: int, rule: EdgeRule = "neighbours", width: int = 4) -> Tensor:
    """Which pixels are on a border, as 0 and 1.

    Args:
        rule: `neighbours`, mmsegmentation's: pixels that differ from the one above, to the right, or below to either
            side, neither being ignored. `canny`, PIDNet's: OpenCV's Canny of the ids, the ignored one among them, not
            within 6 pixels of the image's border.
        width: pixels across a border; what is found is dilated by a square of this side, whose centre is the upper left
            of the four in the middle where that is even.

    Shapes:
        target: (B, H, W) int64 -> (B, H, W) int64.
    """
    found = _canny(target) if rule == "canny" else _unlike_neighbours(target, ignore_index)
    before, after = width // 2, width - width // 2 - 1
    padded = F.pad(found[:, None].float(), (before, after, before, after))
    return F.max_pool2d(padded, width, stride=1)[:, 0].long()  # (B, 1, H, W) -> (B, H, W)


def _unlike_neighbours(target: Tensor, ignore_index: int) -> Tensor:
    edges = torch.zeros_like(target, dtype=torch.bool)
    height, width = target.shape[1:]
    for down, right in ((-1, 0), (0, 1), (1, 1), (1, -1)):
        here = (..., slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right)))
        there = (..., slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right)))
        one, other = target[here], target[there]
        edges[here] |= (one != other) & (one != ignore_index) & (other != ignore_index)
    return edges


def _canny(target: Tensor) -> Tensor:
    """OpenCV's Canny with thresholds below 1: every local maximum of the gradient along its direction."""
    ids = F.pad(target[:, None].float(), (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=target.device)
    with torch.autocast(target.device.type, enabled=False):  # sums of ids are no whole numbers in half types
        gradients = F.conv2d(ids, torch.stack([sobel, sobel.T])[:, None]).long()  # (B, 2, H, W)
    across, down = gradients.unbind(1)
    size = across.abs() + down.abs()
    around = F.pad(size, (1, 1, 1, 1))

    def beside(dy: int, dx: int) -> Tensor:
        return around[:, 1 + dy : 1 + dy + size.shape[1], 1 + dx : 1 + dx + size.shape[2]]

    flat, steep = across.abs() * TANGENT, across.abs() * (TANGENT + 2 * ONE)
    is_flat, is_steep = down.abs() * ONE < flat, down.abs() * ONE > steep
    falls = (across < 0) ^ (down < 0)
    along = torch.where(falls, size > beside(-1, 1).maximum(beside(1, -1)), size > beside(-1, -1).maximum(beside(1, 1)))
    upright = (size > beside(-1, 0)) & (size >= beside(1, 0))
    level = (size > beside(0, -1)) & (size >= beside(0, 1))
    edges = (size > 0) & torch.where(is_flat, level, torch.where(is_steep, upright, along))
    inside = torch.zeros_like(edges)
    inside[:, 6:-6, 6:-6] = True
    return edges & inside


def details_of(target: Tensor) -> Tensor:
    """Which pixels STDC calls a detail, as 0 and 1: where a Laplacian of the ids is positive at strides 1 or 2.

    Those of stride 4 count 0.1 and decide nothing alone. The ignored id is a number like any other, and outside the
    image there is class 0.

    Shapes:
        target: (B, H, W) int64 -> (B, H, W) int64.
    """
    laplacian = torch.full((1, 1, 3, 3), -1.0, device=target.device)
    laplacian[..., 1, 1] = 8.0
    ids, share = target[:, None].float(), torch.zeros_like(target[:, None], dtype=torch.float32)
    for stride, weight in zip(LEVELS, SHARES, strict=True):
        with torch.autocast(target.device.type, enabled=False):  # sums of ids are no whole numbers in half types
            found = (F.conv2d(ids, laplacian, stride=stride, padding=1) > DETAIL_THRESHOLD).float()
        share += weight * F.interpolate(found, target.shape[-2:], mode="nearest")  # (B, 1, H, W)
    return (share > DETAIL_THRESHOLD)[:, 0].long()
