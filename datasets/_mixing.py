"""Two labelled images made into one: a rectangle of given area, the pixels of given classes.

TriKD's code (arXiv 2309.12557) has both maps and uses neither. The caller passes the random generator.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from ._photometric import Probability
from ._strong import Box, box_mask


def half_area_box(size: tuple[int, int], area: float, exponent: float, position: tuple[float, float]) -> Box:
    """A rectangle of a given share of the image (one half in TriKD's code) that lies inside it.

        height = round(H area^exponent), width = round(W area / area^exponent), corner = round((size - side) position)

    Args:
        size: (H, W) in pixels.
        area: share of the image, above 0 and at most 1.
        exponent: 0..1, from full height to full width, 0.5 keeps the image's ratio.
        position: 0..1 each, of the top left corner in the space that is left, down and to the right.

    Returns:
        (top, left, height, width) in pixels; halves are rounded to even.
    """
    share = area**exponent
    height, width = round(size[0] * share), round(size[1] * area / share)
    return round((size[0] - height) * position[0]), round((size[1] - width) * position[1]), height, width


def class_paste(
    base: tuple[np.ndarray, np.ndarray], donor: tuple[np.ndarray, np.ndarray], classes: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The base with the donor's pixels of some classes laid over it, image and labels alike.

    A donor that is class 0 everywhere gives nothing, also when class 0 is asked for: so does TriKD's code, where an
    all-zero label means "no donor". Class 0 of any other donor is pasted.

    Args:
        base, donor: image (H, W, 3) and labels (H, W), both of one size.
        classes: labels to paste.

    Returns:
        New arrays, image (H, W, 3) and labels (H, W), of the base's types.
    """
    (image, labels), (donor_image, donor_labels) = base, donor
    assert image.shape == donor_image.shape and image.shape[:2] == labels.shape == donor_labels.shape
    pasted = np.isin(donor_labels, list(classes)) & donor_labels.any()  # (H, W)
    mixed = np.where(pasted[..., None], donor_image, image)
    return mixed.astype(image.dtype), np.where(pasted, donor_labels, labels).astype(labels.dtype)


@dataclass(frozen=True)
class MixDraw:
    """Everything random in one mixing: `box` (half_cutmix), or `seed` of the choice of the donor's classes."""

    box: Box | None = None
    seed: int = 0


class Mix:
    """Two labelled images of a batch made into one, image and target alike.

    Args:
        kind: `half_cutmix`: a rectangle of `area` from the donor; `class_paste`: the pixels of half of the donor's
            classes, rounded up (ClassMix: Olsson et al., WACV 2021, arXiv 2007.07936).
        probability: of mixing, image by image.
        area: share of the image, half_cutmix only.
    """

    def __init__(
        self,
        *,
        kind: Literal["half_cutmix", "class_paste"] = "half_cutmix",
        probability: Probability = 0.5,
        area: Annotated[float, Interval(gt=0, le=1)] = 0.5,
    ):
        self.kind, self.probability, self.area = kind, probability, area

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> MixDraw | None:
        """The random choices for an image of this (height, width); None leaves it as it is."""
        if rng.random() >= self.probability:
            return None
        if self.kind == "class_paste":
            return MixDraw(seed=int(rng.integers(2**32)))
        # both sides must fit: with all the area in one side, the other is the image's whole one
        position = float(rng.random()), float(rng.random())
        return MixDraw(box=half_area_box(size, self.area, float(rng.random()), position))

    def apply(
        self, base: tuple[np.ndarray, np.ndarray], donor: tuple[np.ndarray, np.ndarray], draw: MixDraw
    ) -> tuple[np.ndarray, np.ndarray]:
        """The base with what `draw` takes from the donor: image (H, W, 3) and target (H, W), new arrays."""
        if self.kind == "class_paste":
            present = np.unique(donor[1])
            present = present[present != 255]
            half = -(-len(present) // 2)
            return class_paste(base, donor, np.random.default_rng(draw.seed).permutation(present)[:half].tolist())
        inside = box_mask(base[1].shape, draw.box)
        return np.where(inside[..., None], donor[0], base[0]), np.where(inside, donor[1], base[1])
