"""The training view of an image and its target: turn, scale, crop, flip, colours, padding."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from PIL import Image

from ._palettes import Color, Level
from ._photometric import (
    Distortion,
    Hue,
    NonNegative,
    Positive,
    Probability,
    Recolor,
    RecolorRanges,
    check_rising,
    distort,
    draw_distortion,
    recolor,
)
from ._resample import fit_size, resample_image, resample_label, short_side_size

Pixels = Annotated[int, Interval(ge=1, le=2**15)]
Degrees = Annotated[float, Interval(ge=0, le=45)]
# mmseg tries a crop and up to ten more; the last one is taken as it comes
CROP_REDRAWS = 10
QUARTERS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


@dataclass(frozen=True)
class Draw:
    """Everything random in one view.

    Attributes:
        size: (height, width) of the whole image after scaling.
        corner: (top, left) of the crop in the scaled image (padded to the crop size where it is smaller).
        factor: the exact scale that `size` is the rounding of (OpenCV steps by it), None: size / image size.
        flip: mirror left and right.
        distortion, recolor: see _photometric.py.
        upside_down: mirror top and bottom. quarters: quarter turns to the left after it. Both come before all else.
        angle: degrees that the view is rotated by, to the left.
    """

    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    factor: float | None = None
    flip: bool = False
    distortion: Distortion | None = None
    recolor: Recolor = field(default_factory=Recolor)
    upside_down: bool = False
    quarters: int = 0
    angle: float = 0.0


class Transform:
    """A random training view: `draw` makes the random choices, `apply` carries them out.

    Order: turn upside down, quarter turns, [flip if flip_first], scale, crop, distort, pad to the crop at the bottom
    and right, rotate, [flip], jitter, grey, blur. The scale r is uniform in `scale_range`; all sizes are (height,
    width) in pixels.

    Args:
        crop_size: the output size; None keeps the whole scaled image.
        scale: what r means. `factor`: the image becomes r times as large (CIRKD). `short_side`, `long_side`: that side
            becomes an integer drawn from [int(low * base_size), int(high * base_size)] (AICSD, TriKD). `fit`: the image
            grows or shrinks to just fit into r * base_size, long side along long side (mmseg).
        scale_range: low and high of r.
        scale_step: r only takes the values low, low + step, ... up to high (CIRKD: 0.1). For `factor` and `fit`.
        base_size: `short_side`, `long_side`: that side in pixels, None takes the image's own. `fit`: (height, width).
        resample: `pillow` (antialias when shrinking) or `opencv` (none; other label pixels), see _resample.py.
        flip: probability of mirroring.
        flip_first: mirror before everything else (AICSD, and mmseg in effect): padding then always lies at the right;
            otherwise it is mirrored with the image (CIRKD, TriKD).
        flip_vertical: probability of mirroring top and bottom. quarter_turns: turn by 0 to 3 quarters, each as likely. For
            images without an up and a down, such as aerial and microscopic ones.
        rotation: largest angle in degrees; one up to it, to either side, is drawn. The view is rotated about its middle:
            what comes in at its corners is the image around the crop, and padding beyond that; labels are those of the
            nearest pixel.
        max_class_share: redraw the crop, up to 10 times, until it shows more than one class and none covers this share
            of its counted pixels or more (mmseg's cat_max_ratio, 0.75).
        distort: mmseg's photometric distortion.
        jitter: probability of the colour jitter. jitter_strength: its brightness, contrast, saturation, hue.
        grey: probability of dropping the colour.
        blur: probability of Gaussian blur. blur_radius: its range in pixels.
        pad_image: RGB of padding; the default is the ImageNet mean, zero after normalising. CIRKD (123, 117, 104),
            AICSD and TriKD black.
        pad_label: target of padding; 255 does not count, in any data set. AICSD on VOC: 0.

    Raises:
        ValueError: a range that falls, or a scale_step or base_size that the chosen `scale` does not take.
    """

    def __init__(
        self,
        crop_size: tuple[int, int] | None,
        *,
        scale: Literal["factor", "short_side", "long_side", "fit"] = "factor",
        scale_range: tuple[Positive, Positive] = (0.5, 2.0),
        scale_step: Positive | None = None,
        base_size: Pixels | tuple[Pixels, Pixels] | None = None,
        resample: Literal["pillow", "opencv"] = "pillow",
        flip: Probability = 0.5,
        flip_first: bool = False,
        flip_vertical: Probability = 0.0,
        quarter_turns: bool = False,
        rotation: Degrees = 0.0,
        max_class_share: Annotated[float, Interval(gt=0, le=1)] | None = None,
        distort: bool = False,
        jitter: Probability = 0.0,
        jitter_strength: tuple[NonNegative, NonNegative, NonNegative, Hue] = (0.5, 0.5, 0.5, 0.25),
        grey: Probability = 0.0,
        blur: Probability = 0.0,
        blur_radius: tuple[NonNegative, NonNegative] = (0.1, 2.0),
        pad_image: Color = (124, 116, 104),
        pad_label: Level = 255,
    ):
        check_rising("scale_range", scale_range)
        _check_scale(scale, scale_step, base_size)
        self.crop_size = None if crop_size is None else tuple(crop_size)
        self.scale, self.scale_range, self.scale_step, self.base_size = scale, scale_range, scale_step, base_size
        self.resample, self.flip, self.flip_first = resample, flip, flip_first
        self.flip_vertical, self.quarter_turns, self.rotation = flip_vertical, quarter_turns, rotation
        self.max_class_share, self.distort = max_class_share, distort
        self.recolor = RecolorRanges(jitter, tuple(jitter_strength), grey, blur, tuple(blur_radius))
        self.pad_image, self.pad_label = tuple(pad_image), pad_label

    def __call__(
        self, image: Image.Image, target: Image.Image, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A view drawn with `rng`, which the caller makes from (seed, epoch, index)."""
        return self.apply(image, target, self.draw(rng, (image.height, image.width), target))

    def draw(self, rng: np.random.Generator, image_size: tuple[int, int], target: Image.Image | None = None) -> Draw:
        """The random choices for an image of this (height, width); `target` is needed for max_class_share only."""
        upside_down, quarters, angle = self._draw_turn(rng)
        size, factor = self._draw_size(rng, image_size[::-1] if quarters % 2 else image_size)
        flip = bool(rng.random() < self.flip)
        distortion = draw_distortion(rng) if self.distort else None
        recolor = self.recolor.draw(rng)
        # the corner comes last: redraws leave the other choices as they are
        corner = self._draw_corner(rng, size)
        if self.max_class_share is not None:
            if target is None:
                raise ValueError("max_class_share: drawing a crop by its classes needs the target")
            target = self._oriented(target, upside_down, quarters, flip)
            for _ in range(CROP_REDRAWS):
                if self._mixed(resample_label(target, size, self._window(size, corner), self.resample, factor)):
                    break
                corner = self._draw_corner(rng, size)
        return Draw(size, corner, factor, flip, distortion, recolor, upside_down, quarters, angle)

    def apply(self, image: Image.Image, target: Image.Image, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """The view that `draw` describes: (H, W, 3) uint8 RGB and (H, W) uint8, owned by the caller."""
        image, target = (self._oriented(one, draw.upside_down, draw.quarters, draw.flip) for one in (image, target))
        crop_size = self.crop_size or draw.size
        margin = _margin(crop_size, draw.angle)
        window = self._window(draw.size, draw.corner, margin)
        pixels = resample_image(image, draw.size, window, self.resample, draw.factor)
        labels = resample_label(target, draw.size, window, self.resample, draw.factor)
        if draw.distortion is not None:
            pixels = distort(pixels, draw.distortion)
        if draw.angle:
            # where the window begins in the crop and its margin
            begin = window[0] - draw.corner[0] + margin[0], window[1] - draw.corner[1] + margin[1]
            bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
            pixels = _rotated(pixels, draw.angle, begin, crop_size, margin, self.pad_image, bilinear)
            labels = _rotated(labels, draw.angle, begin, crop_size, margin, self.pad_label, nearest)
        mirrored = draw.flip and not self.flip_first
        pixels = _place(pixels, (*crop_size, 3), self.pad_image, mirrored)
        labels = _place(labels, crop_size, self.pad_label, mirrored)
        return recolor(pixels, draw.recolor), labels

    def _oriented(self, image: Image.Image, upside_down: bool, quarters: int, flip: bool) -> Image.Image:
        """An image as crops are cut from it: turned, and mirrored where that comes first."""
        image = _turned(image, upside_down, quarters)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip and self.flip_first else image

    def _draw_turn(self, rng: np.random.Generator) -> tuple[bool, int, float]:
        """Whether upside down, the quarter turns and the angle."""
        if not (self.flip_vertical or self.quarter_turns or self.rotation):
            return False, 0, 0.0
        own = rng.spawn(1)[0]  # a generator of their own: the other draws stay what they are without
        upside_down, quarters, angle = own.random() < self.flip_vertical, own.integers(4), own.uniform(-1, 1)
        return bool(upside_down), int(quarters) if self.quarter_turns else 0, float(angle * self.rotation)

    def _draw_size(self, rng: np.random.Generator, image_size: tuple[int, int]) -> tuple[tuple[int, int], float | None]:
        if self.scale in ("short_side", "long_side"):
            side = min(image_size) if self.scale == "short_side" else max(image_size)
            base = self.base_size or side
            drawn = int(rng.integers(int(self.scale_range[0] * base), int(self.scale_range[1] * base) + 1))
            return side_size(image_size, max(drawn, 1), self.scale), None
        low, high = self.scale_range
        if self.scale_step is None:
            ratio = float(rng.uniform(low, high))
        else:
            steps = int((high - low) / self.scale_step + 1e-6)
            # rounded, so that the value is the one that reads 1.1 and not its neighbour
            ratio = round(low + int(rng.integers(0, steps + 1)) * self.scale_step, 10)
        if self.scale == "fit":
            return fit_size(image_size, self.base_size, ratio), None
        return factor_size(image_size, ratio), ratio

    def _draw_corner(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
        crop_size = self.crop_size or size
        top = int(rng.integers(0, max(size[0] - crop_size[0], 0) + 1))
        left = int(rng.integers(0, max(size[1] - crop_size[1], 0) + 1))
        return top, left

    def _window(
        self, size: tuple[int, int], corner: tuple[int, int], margin: tuple[int, int] = (0, 0)
    ) -> tuple[int, int, int, int]:
        """The part of the crop, and of a margin around it, that the scaled image covers; the rest is padding."""
        begin = [max(start - more, 0) for start, more in zip(corner, margin)]
        end = [
            min(start + length + more, whole)
            for start, length, more, whole in zip(corner, self.crop_size or size, margin, size)
        ]
        return *begin, end[0] - begin[0], end[1] - begin[1]

    def _mixed(self, labels: np.ndarray) -> bool:
        # three times as fast as numpy's bincount, which widens the labels first
        counts = Image.fromarray(labels).histogram()[:255]
        return sum(count > 0 for count in counts) > 1 and max(counts) < self.max_class_share * sum(counts)


def factor_size(image_size: tuple[int, int], factor: float) -> tuple[int, int]:
    """factor * (height, width), halves rounded to even as OpenCV does."""
    return max(round(image_size[0] * factor), 1), max(round(image_size[1] * factor), 1)


def side_size(image_size: tuple[int, int], side: int, scale: Literal["short_side", "long_side"]) -> tuple[int, int]:
    """One side set, the aspect kept; the other is rounded down (short_side, AICSD) or half up (long_side, TriKD)."""
    if scale == "short_side":
        return short_side_size(image_size, side)
    height, width = image_size
    if height > width:
        return side, max(int(width * side / height + 0.5), 1)
    return max(int(height * side / width + 0.5), 1), side


def _check_scale(scale: str, scale_step: float | None, base_size: int | tuple[int, int] | None) -> None:
    if scale_step is not None and scale not in ("factor", "fit"):
        raise ValueError(f"scale_step: only scale factor and fit take steps, got {scale_step} with scale {scale}")
    wanted = {"factor": "none", "fit": "[height, width]"}.get(scale, "one integer or none")
    given = "none" if base_size is None else "one integer" if isinstance(base_size, int) else "[height, width]"
    if given not in wanted:
        raise ValueError(f"base_size: scale {scale} takes {wanted}, got {base_size}")


def _turned(image: Image.Image, upside_down: bool, quarters: int) -> Image.Image:
    """The image mirrored top and bottom, then turned to the left."""
    if upside_down:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image.transpose(QUARTERS[quarters]) if quarters else image


def _margin(size: tuple[int, int], angle: float) -> tuple[int, int]:
    """Rows and columns on each side of a crop that a rotation about its middle turns into it."""
    if not angle:
        return 0, 0
    cos, sin = math.cos(math.radians(angle)), abs(math.sin(math.radians(angle)))
    height, width = size[0] * cos + size[1] * sin, size[1] * cos + size[0] * sin
    return max(math.ceil((height - size[0]) / 2), 0), max(math.ceil((width - size[1]) / 2), 0)


def _rotated(
    values: np.ndarray,
    angle: float,
    begin: tuple[int, int],
    size: tuple[int, int],
    margin: tuple[int, int],
    padding: int | tuple[int, ...],
    resample: Image.Resampling,
) -> np.ndarray:
    """A crop rotated about its middle, (*size, ...).

    Args:
        values: what there is of the crop and its margin. begin: where it lies in them. padding: what lies around it.
    """
    (top, left), (height, width) = begin, values.shape[:2]
    whole = np.empty((size[0] + 2 * margin[0], size[1] + 2 * margin[1], *values.shape[2:]), np.uint8)
    whole[:] = padding
    whole[top : top + height, left : left + width] = values
    turned = np.asarray(Image.fromarray(whole).rotate(angle, resample, fillcolor=padding))
    return turned[margin[0] : margin[0] + size[0], margin[1] : margin[1] + size[1]]


def _place(values: np.ndarray, shape: tuple[int, ...], padding: int | tuple[int, ...], mirrored: bool) -> np.ndarray:
    """A new array of `shape` with `values` at its top left, the rest padding, mirrored on request, in one copy."""
    placed = np.empty(shape, dtype=np.uint8)
    view = placed[:, ::-1] if mirrored else placed
    height, width = values.shape[:2]
    view[:height, :width] = values
    view[height:] = padding
    view[:height, width:] = padding
    return placed
