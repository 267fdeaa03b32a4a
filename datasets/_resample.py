"""Resizing images and labels the way Pillow or OpenCV does, computing only the pixels that are kept."""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

Resample = Literal["pillow", "opencv"]
# scaled pixels up to which the whole image is resized and then cropped: exact, and below 1 ms
SMALL = 65536

Window = tuple[int, int, int, int]  # top, left, height, width, in pixels of the scaled image


def resample_image(
    image: Image.Image, size: tuple[int, int], window: Window, resample: Resample, factor: float | None = None
) -> np.ndarray:
    """The pixels of `window` of the image resized to `size`, bilinear.

    Equals resizing the whole image and cropping it: bit for bit with `pillow` up to 65536 scaled pixels or without a
    crop, else to 1 grey level in 1 % of the pixels (Pillow holds a window's corners in float32, which decides ties).
    Where Pillow from version 13 on resizes a tall image rows first, a crop keeps the older order: 2 grey levels.

    Args:
        image: mode RGB. size: (height, width) of the whole scaled image.
        window: must lie inside `size`.
        resample: `pillow` widens the filter when shrinking (antialias); `opencv` never does.
        factor: opencv only: the exact scale, where `size` is only its rounding; None takes size / image size.
    Returns:
        (height, width, 3) uint8 of the window.
    """
    top, left, height, width = window
    step_y, step_x = _steps((image.height, image.width), size, resample, factor)
    if step_y == 1 and step_x == 1:
        return np.asarray(image.crop((left, top, left + width, top + height)))
    whole = window == (0, 0, *size) or size[0] * size[1] <= SMALL
    if resample == "pillow" and whole:
        scaled = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(scaled.crop((left, top, left + width, top + height)))
    # A rounded-up size reaches past the image's edge, which Pillow's box may not.
    overhang = max((top + height) * step_y - image.height, (left + width) * step_x - image.width)
    if resample == "opencv" and (max(step_y, step_x) > 1 or overhang > 1e-6):
        return _plain_bilinear(image, window, (step_y, step_x))
    # enlarging, Pillow's filter is the plain bilinear one that OpenCV uses as well
    return _pillow_bilinear(image, window, (step_y, step_x))


def resample_label(
    target: Image.Image, size: tuple[int, int], window: Window, resample: Resample, factor: float | None = None
) -> np.ndarray:
    """The ids of `window` of the label resized to `size`: nearest pixel, exactly as Pillow or OpenCV picks it.

    Pillow takes the pixel below the centre of the output pixel, OpenCV the one below its upper left corner.
    """
    top, left, height, width = window
    step_y, step_x = _steps((target.height, target.width), size, resample, factor)
    rows = _nearest(target.height, size[0], step_y, resample)[top : top + height]
    columns = _nearest(target.width, size[1], step_x, resample)[left : left + width]
    return np.take(np.take(np.asarray(target), rows, axis=0), columns, axis=1)


def resize_image(image: Image.Image, size: tuple[int, int], resample: Resample = "pillow") -> np.ndarray:
    """The whole image at `size` = (height, width): (height, width, 3) uint8."""
    return resample_image(image, size, (0, 0, *size), resample)


def resize_pair(
    image: Image.Image, target: Image.Image, size: tuple[int, int], resample: Resample = "pillow"
) -> tuple[np.ndarray, np.ndarray]:
    """Image and target at `size` = (height, width), aspect not kept: (height, width, 3) and (height, width) uint8."""
    return resize_image(image, size, resample), resample_label(target, size, (0, 0, *size), resample)


def short_side_size(image_size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) with the shorter one equal to `short_side`, the other rounded down (AICSD)."""
    height, width = image_size
    if height > width:
        return int(height * short_side / width), short_side
    return short_side, int(width * short_side / height)


def short_side_pair(
    image: Image.Image, target: Image.Image, short_side: int, resample: Resample = "pillow"
) -> tuple[np.ndarray, np.ndarray]:
    """`resize_pair` to a short side with the aspect kept: what AICSD's validation scores on."""
    return resize_pair(image, target, short_side_size((image.height, image.width), short_side), resample)


def fit_size(image_size: tuple[int, int], base_size: tuple[int, int], ratio: float = 1.0) -> tuple[int, int]:
    """The largest size of the image's aspect inside ratio * base_size, long side along long side (mmseg)."""
    sides = int(min(base_size) * ratio), int(max(base_size) * ratio)
    factor = min(sides[0] / min(image_size), sides[1] / max(image_size))
    return max(int(image_size[0] * factor + 0.5), 1), max(int(image_size[1] * factor + 0.5), 1)


def fitted_pair(image: Image.Image, target: Image.Image, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The image resized to just fit into `size`, the target as it is: what mmsegmentation scores on."""
    return resize_image(image, fit_size((image.height, image.width), size), "opencv"), np.asarray(target)


def fitted_pair_corners(
    image: Image.Image, target: Image.Image, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The image resized to just fit into `size` with its corners aligned, the target as it is: what TriKD scores on.

    Returns:
        (height, width, 3) float32 in 0..255, not rounded to grey levels; the target's (height, width).
    """
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)[None]  # (1, 3, H, W)
    return fit_corners(pixels, size)[0].permute(1, 2, 0).numpy(), np.asarray(target)


def fit_corners(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, C, H, W) float images resized to just fit into `size`, long side along long side, corners aligned."""
    sides = images.shape[-2:]
    factor = min(min(size) / min(sides), max(size) / max(sides))
    fitted = [max(round(side * factor), 1) for side in sides]  # a half goes to the even side, unlike fit_size
    return F.interpolate(images, size=fitted, mode="bilinear", align_corners=True)


def _steps(
    image_size: tuple[int, int], size: tuple[int, int], resample: Resample, factor: float | None
) -> tuple[float, float]:
    """Source pixels per output pixel (rows, columns), rounded in float64 as the library in question does it."""
    if resample == "pillow":
        return image_size[0] / size[0], image_size[1] / size[1]
    return 1 / (factor or size[0] / image_size[0]), 1 / (factor or size[1] / image_size[1])


def _nearest(source: int, length: int, step: float, resample: Resample) -> np.ndarray:
    """(length,) index of the source row or column of each output row or column."""
    if resample == "opencv":
        positions = np.arange(length) * step
    else:
        # Pillow adds the step up pixel by pixel; only the same sum falls on the same side of a tie
        positions = np.cumsum(np.concatenate(([step * 0.5], np.full(length - 1, step))))
    return np.minimum(positions.astype(np.int64), source - 1)


def _pillow_bilinear(image: Image.Image, window: Window, steps: tuple[float, float]) -> np.ndarray:
    """Pillow's resize of the window alone.

    A single call with a box chooses the order of its two passes by the box, and so rounds unlike the resize of the
    whole image; two calls fix the order.
    """
    top, left, height, width = window
    upper, lower = top * steps[0], min((top + height) * steps[0], image.height)
    margin = max(steps[0], 1) + 1  # what the filter reads above and below the window
    first, last = max(math.floor(upper - margin), 0), min(math.ceil(lower + margin), image.height)
    columns = (left * steps[1], 0, min((left + width) * steps[1], image.width), last - first)
    strip = image.crop((0, first, image.width, last))
    strip = strip.resize((width, last - first), Image.Resampling.BILINEAR, box=columns)
    rows = (0, upper - first, width, lower - first)
    return np.asarray(strip.resize((width, height), Image.Resampling.BILINEAR, box=rows))


def _plain_bilinear(image: Image.Image, window: Window, steps: tuple[float, float]) -> np.ndarray:
    """Bilinear without antialias at half-pixel centres.

    torch has no start offset, so the pixels above and left of the window are computed as well: when shrinking they
    are few, and its uint8 kernel takes 2 ms where Image.transform takes 12 and rounds down.
    """
    top, left, height, width = window
    size = (top + height, left + width)
    # two source pixels more than the last output pixel reads, so that the cut is not mistaken for the image's edge
    below = min(image.height, math.ceil(size[0] * steps[0]) + 2)
    right = min(image.width, math.ceil(size[1] * steps[1]) + 2)
    pixels = np.array(image if (right, below) == image.size else image.crop((0, 0, right, below)))
    planes = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)  # (1, 3, H, W), channels last in memory
    scaled = torch.ops.aten.upsample_bilinear2d(planes, list(size), False, 1 / steps[0], 1 / steps[1])
    return scaled[0, :, top:, left:].permute(1, 2, 0).numpy()  # (h, w, 3)
