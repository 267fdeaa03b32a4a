"""The strong view of semi-supervised training: colour jitter, grey, blur and a CutMix box on top of a weak view."""

import math
from typing import Annotated

import numpy as np
from annotated_types import Interval

from ._photometric import Hue, NonNegative, Positive, Probability, Recolor, RecolorRanges, check_rising, recolor

Box = tuple[int, int, int, int]  # top, left, height, width in pixels
Share = Annotated[float, Interval(gt=0, lt=1)]
CUTMIX_TRIES = 10_000  # crops of the usual shapes need a few dozen


class StrongView:
    """A random strong view of a weak one; labels do not move.

    Source: UniMatch (Yang et al., CVPR 2023, arXiv 2208.09910), whose values are the defaults; TriKD's code keeps it
    as an option.

    Args:
        jitter, grey, blur: probabilities, in this order of application.
        jitter_strength: brightness, contrast, saturation, hue. blur_radius: range in pixels.
        cutmix: probability of a box. cutmix_area: range of its share of the image, both below 1.
        cutmix_ratio: range of its height / width. On long crops, where no box of the drawn area has such a ratio, the
            largest one that fits is taken.

    Raises:
        ValueError: a range that falls, or areas and ratios that no box inside the image has.
    """

    def __init__(
        self,
        *,
        jitter: Probability = 0.8,
        jitter_strength: tuple[NonNegative, NonNegative, NonNegative, Hue] = (0.5, 0.5, 0.5, 0.25),
        grey: Probability = 0.2,
        blur: Probability = 0.5,
        blur_radius: tuple[NonNegative, NonNegative] = (0.1, 2.0),
        cutmix: Probability = 0.5,
        cutmix_area: tuple[Share, Share] = (0.02, 0.4),
        cutmix_ratio: tuple[Positive, Positive] = (0.3, 1 / 0.3),
    ):
        check_rising("cutmix_area", cutmix_area)
        check_rising("cutmix_ratio", cutmix_ratio)
        # a box of area a and ratio q fits if a <= q <= 1 / a: without such a ratio the draw would never end
        if cutmix_ratio[0] >= 1 / cutmix_area[1] or cutmix_ratio[1] <= cutmix_area[1]:
            raise ValueError(
                f"cutmix_ratio: no box of {cutmix_area[1]} of the image (cutmix_area) with a height / width in "
                f"{cutmix_ratio} fits into it; low must be below {1 / cutmix_area[1]:g} and high above {cutmix_area[1]}"
            )
        self.recolor = RecolorRanges(jitter, tuple(jitter_strength), grey, blur, tuple(blur_radius))
        self.cutmix, self.cutmix_area, self.cutmix_ratio = cutmix, cutmix_area, cutmix_ratio

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 -> the strong view, not yet mixed, and the (H, W) bool mask of what another image fills."""
        colors, box = self.draw(rng, pixels.shape[:2])
        return recolor(pixels, colors), box_mask(pixels.shape[:2], box)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[Recolor, Box | None]:
        """The random choices for a view of this (height, width): its colours, and the box filled from another image."""
        drawn, box = self.recolor.draw(rng), None
        if rng.random() < self.cutmix:
            area = rng.uniform(*self.cutmix_area)
            for _ in range(CUTMIX_TRIES if self._may_fit(size, area) else 0):
                ratio = rng.uniform(*self.cutmix_ratio)
                box = cutmix_box(size, area, ratio, int(rng.integers(size[0])), int(rng.integers(size[1])))
                if box is not None:
                    return drawn, box
            box = self._draw_largest(rng, size, area)
        return drawn, box

    def _may_fit(self, size: tuple[int, int], area: float) -> bool:
        """Whether some ratio makes a box of this area that is neither too high nor too wide."""
        pixels, (low, high) = area * size[0] * size[1], self.cutmix_ratio
        return low * pixels < (size[0] + 1) ** 2 and pixels < high * (size[1] + 1) ** 2

    def _draw_largest(self, rng: np.random.Generator, size: tuple[int, int], area: float) -> Box:
        """A box of the ratio nearest to the image's, of the area or as near to it as fits, anywhere in the image."""
        ratio = min(max(size[0] / size[1], self.cutmix_ratio[0]), self.cutmix_ratio[1])
        # height is sqrt(pixels ratio), width is sqrt(pixels / ratio)
        pixels = min(area * size[0] * size[1], size[0] ** 2 / ratio, size[1] ** 2 * ratio)
        _, _, height, width = cutmix_box(size, pixels / (size[0] * size[1]), ratio, 0, 0)
        return int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1)), height, width


def cutmix_box(size: tuple[int, int], area: float, ratio: float, top: int, left: int) -> Box | None:
    """The box of `area` (share of the image) and `ratio` = height / width at (top, left), None if it sticks out.

    height = int(sqrt(area H W ratio)), width = int(sqrt(area H W / ratio)).
    """
    pixels = area * size[0] * size[1]
    height, width = int(math.sqrt(pixels * ratio)), int(math.sqrt(pixels / ratio))
    if top + height > size[0] or left + width > size[1]:
        return None
    return top, left, height, width


def box_mask(size: tuple[int, int], box: Box | None) -> np.ndarray:
    """(H, W) bool, True inside the box; all False without one."""
    mask = np.zeros(size, dtype=bool)
    if box is not None:
        top, left, height, width = box
        mask[top : top + height, left : left + width] = True
    return mask


def partners(count: int) -> list[int]:
    """The image that each image of a batch is mixed with: its neighbour, or itself for the last of an odd number.

    Pairs do not depend on how many processes share a batch, as long as each has an even number.
    """
    return [index ^ 1 if index ^ 1 < count else index for index in range(count)]
