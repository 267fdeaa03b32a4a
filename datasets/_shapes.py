"""Polygons, run lengths and circles as pixels, and label maps drawn of them.

Polygons are filled as COCO's own tools fill them, pixel for pixel: Lin et al., "Microsoft COCO: Common Objects in
Context", ECCV 2014, `rleFrPoly` of cocoapi's maskApi.c.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Overlap = Literal["area", "order"]  # smaller shapes lie on larger ones, or later shapes on earlier ones

FINER = 5  # how many steps of a boundary are counted in a pixel, as in COCO
FARTHEST = 100_000  # pixels from the image's corner: the boundary is walked step by step
LONGEST = 4_000_000  # pixels around a polygon


@dataclass(frozen=True)
class Region:
    """Some pixels of an image: those where `mask` is true, whose upper left pixel is (top, left) of the image."""

    top: int
    left: int
    mask: np.ndarray  # (h, w) bool

    @property
    def area(self) -> int:
        """How many pixels it has."""
        return int(np.count_nonzero(self.mask))


NOTHING = Region(0, 0, np.zeros((0, 0), bool))


Shapes = list[tuple[int, Region]]  # train id and pixels of each


def stacked(shapes: Shapes, overlap: Overlap) -> Shapes:
    """Shapes in the order in which they are drawn: with `area` those with more pixels first, of equal ones the earlier."""
    return sorted(shapes, key=lambda shape: -shape[1].area) if overlap == "area" else shapes


def draw(shapes: Shapes, size: tuple[int, int], outside: int) -> Image.Image:
    """The label map of shapes, each on top of those before it, mode L.

    Args:
        size: width and height of the image. outside: train id of pixels in no shape.
    """
    target = np.full(size[::-1], outside, np.uint8)  # (H, W)
    for train_id, region in shapes:
        height, width = region.mask.shape
        target[region.top : region.top + height, region.left : region.left + width][region.mask] = train_id
    return Image.fromarray(target)


def polygon(points: np.ndarray, size: tuple[int, int]) -> Region:
    """The pixels that COCO's rule counts as inside: boundaries cross, and what they surround twice is a hole.

    Args:
        points: x, y of each corner in pixels, (N, 2); a pixel's middle lies half a pixel from its corner. What lies
            outside of the image is cut off.
        size: width and height of the image.

    Raises:
        ValueError: fewer than three points, or one that is no number or farther than 100 000 pixels away, or a boundary
            of more than four million pixels.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ValueError("a polygon has at least three points, x and y of each")
    if not (np.abs(points) <= FARTHEST).all():  # of NaN neither is true
        raise ValueError(f"a polygon's points lie at most {FARTHEST} pixels away, and one does not")
    if np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum() > LONGEST:
        raise ValueError(
            f"the way around a polygon has at most {LONGEST} pixels, and this one is longer; is it damaged?"
        )
    x, y = _walk(np.trunc(FINER * points + 0.5).astype(np.int64))
    width, height = size
    # where the boundary crosses the middle of a column, the state of the pixels below changes
    left_of = np.where(x[1:] < x[:-1], x[1:], x[1:] - 1)
    columns = left_of // FINER
    crosses = (x[1:] != x[:-1]) & (left_of % FINER == FINER // 2) & (columns >= 0) & (columns < width)
    columns = columns[crosses]
    rows = (np.minimum(y[1:], y[:-1])[crosses] + 0.5) / FINER - 0.5
    rows = np.ceil(np.clip(rows, 0, height)).astype(np.int64)
    if not columns.size:
        return NOTHING
    left, top, count = columns.min(), rows.min(), rows.max() - rows.min() + 1
    changes = np.bincount((columns - left) * count + rows - top, minlength=(columns.max() - left + 1) * count)
    # bytes that overflow stay even or odd, and take a fifth of the time
    inside = np.cumsum(changes.astype(np.uint8).reshape(-1, count), axis=1, dtype=np.uint8) & 1  # (w, h + 1)
    return Region(int(top), int(left), inside[:, :-1].T.astype(bool))


def _walk(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every step on the way around, in fifths of a pixel: each edge has both of its ends."""
    start, end = corners.T, np.roll(corners, -1, axis=0).T  # (2, N) each: x, y
    length = np.abs(end - start)
    is_flat = length[0] >= length[1]
    longer = np.where(is_flat, 0, 1)
    edges = np.arange(len(corners))
    flips = start[longer, edges] > end[longer, edges]  # COCO walks every edge upwards, which decides how it rounds
    low, high = np.where(flips, end, start), np.where(flips, start, end)
    steps = length.max(axis=0)
    slope = (high - low)[1 - longer, edges] / np.maximum(steps, 1)
    edge = np.repeat(edges, steps + 1)
    place = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    place = np.where(flips[edge], steps[edge] - place, place)
    along = low[longer, edges][edge] + place
    across = np.trunc(low[1 - longer, edges][edge] + slope[edge] * place + 0.5).astype(np.int64)
    return np.where(is_flat[edge], along, across), np.where(is_flat[edge], across, along)


def union(regions: list[Region]) -> Region:
    """The pixels that are in any of them."""
    regions = [region for region in regions if region.mask.size]
    if len(regions) < 2:
        return regions[0] if regions else NOTHING
    top, left = min(region.top for region in regions), min(region.left for region in regions)
    bottom = max(region.top + region.mask.shape[0] for region in regions)
    right = max(region.left + region.mask.shape[1] for region in regions)
    mask = np.zeros((bottom - top, right - left), bool)
    for region in regions:
        y, x, (height, width) = region.top - top, region.left - left, region.mask.shape
        mask[y : y + height, x : x + width] |= region.mask
    return Region(top, left, mask)


def run_lengths(counts: list[int] | str, size: tuple[int, int]) -> Region:
    """COCO's run lengths: how many pixels are outside, then inside, and so on, down each column from the left.

    Args:
        counts: the numbers, or COCO's text of them. size: width and height of the image.

    Raises:
        ValueError: they are not whole numbers from 0 on, or not those of an image of this size.
    """
    width, height = size
    runs = _unpacked(counts) if isinstance(counts, str) else np.array(counts)
    if runs.ndim != 1 or not (runs.size and np.issubdtype(runs.dtype, np.integer)) or runs.min() < 0:
        raise ValueError("run lengths are whole numbers from 0 on, and these are not")
    # summed as floats: damaged texts may hold numbers whose sum has more than 64 bits
    if runs.sum(dtype=np.float64) != width * height:
        told = f"run lengths of an image of {height}x{width} (height x width) add up to {width * height}"
        raise ValueError(f"{told}, these to {runs.sum(dtype=np.float64):.0f}")
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    return Region(0, 0, mask)


def _unpacked(text: str) -> np.ndarray:
    """The run lengths in COCO's text: 5 bits a letter, lowest first, the next bit says that more follow.

    From the fourth on they are differences to the one before the last.
    """
    letters = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if not letters.size or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise ValueError("the text of run lengths is cut off or not COCO's")
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() > 8:
        raise ValueError("the text of run lengths holds a number that no image has")
    place = np.arange(len(letters)) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((letters & 31) << 5 * place, starts)
    runs -= ((letters[ends] & 16) >> 4) << 5 * (ends - starts + 1)  # the highest bit is the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def circle(x: float, y: float, radius: float, size: tuple[int, int]) -> Region:
    """The pixels whose middle is at most `radius` away from (x, y).

    Args:
        size: width and height of the image.

    Raises:
        ValueError: a number that is none, or a circle farther than 100 000 pixels away or as large.
    """
    if not (np.abs([x, y, radius]) <= FARTHEST).all():
        raise ValueError(f"a circle and its middle reach at most {FARTHEST} pixels, and this one does not")
    across = np.arange(size[0]) + 0.5 - x
    down = np.arange(size[1]) + 0.5 - y
    return Region(0, 0, down[:, None] ** 2 + across**2 <= radius**2)
