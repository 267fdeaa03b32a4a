"""Two labelled images made into one: a rectangle of given area, the pixels of given classes.

Both maps stand unused in TriKD's code (arXiv 2309.12557). All draws are the caller's generator's.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ._photometric import check_probability
from ._strong import Box, box_mask


def half_area_box(size: tuple[int, int], area: float, exponent: float, position: tuple[float, float]) -> Box:
    """A rectangle of a given share of the image (one half in TriKD's code) that lies inside it.

        height = round(H area^exponent), width = round(W area / area^exponent), corner = round((size - side) position)

    Args:
        size: (H, W) in pixels.
        area: share of the image, above 0 and at most 1.
        exponent: 0..1, from full height to full width, 0.5 keeps the image's ratio.
        position: 0..1 each, where the top left corner lies in what room there is, down and to the right.

    Returns:
        (top, left, height, width) in pixels; halves are rounded to even.

    Raises:
        ValueError: a number out of its range.
    """
    if not 0 < area <= 1:
        raise ValueError(f"area must be above 0 and at most 1, got {area}")
    if not (0 <= exponent <= 1 and 0 <= min(position) and max(position) <= 1):
        raise ValueError(f"exponent and position must be between 0 and 1, got {exponent} and {position}")
    share = area**exponent
    height, width = round(size[0] * share), round(size[1] * area / share)
    return round((size[0] - height) * position[0]), round((size[1] - width) * position[1]), height, width


def class_paste(
    base: tuple[np.ndarray, np.ndarray], donor: tuple[np.ndarray, np.ndarray], classes: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The base with the donor's pixels of some classes laid over it, image and labels alike.

    A donor that is class 0 everywhere gives nothing, also when class 0 is asked for: so does TriKD's code, where an
    all-zero label stands for "no donor". Class 0 of any other donor is pasted.

    Args:
        base, donor: image (H, W, 3) and labels (H, W), both of one size.
        classes: labels to paste.

    Returns:
        New arrays, image (H, W, 3) and labels (H, W), of the base's types.

    Raises:
        ValueError: images or labels of different shapes.
    """
    (image, labels), (donor_image, donor_labels) = base, donor
    if image.shape != donor_image.shape or not image.shape[:2] == labels.shape == donor_labels.shape:
        raise ValueError(
            f"class_paste: base and donor must have one size, got images {image.shape} and {donor_image.shape}, "
            f"labels {labels.shape} and {donor_labels.shape}"
        )
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

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        *,
        kind: Literal["half_cutmix", "class_paste"] = "half_cutmix",
        probability: float = 0.5,
        area: float = 0.5,
    ):
        check_probability("probability", probability)
        half_area_box((2, 2), area, 0.5, (0.0, 0.0))
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
