"""Boundary IoU: how well contours are met, whatever the size of what they surround."""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from segkd.runner.console import percent
from segkd.runner.scoring.metrics._bands import band
from segkd.runner.scoring.metrics._metric import Metric, Split, Values, per_class, ratios

SHARE = 0.02  # of the image's diagonal, as the paper's default


class Boundary(Metric):
    """Mean over classes, and per class, of the boundary IoU in 0..1.

        Boundary IoU = |G_d and P_d| / |G_d or P_d|

    with G_d and P_d the pixels of a class in label and prediction that are within d of its contour there, counted over
    the whole split before the division, as IoU is here. As in the authors' code a class is eroded d times by a square
    of 3 x 3, and what is outside the image belongs to no class. Ignored pixels are taken out of both maps first, so a
    contour along them is in both. Source: Cheng, Girshick, Dollar, Berg, Kirillov, Boundary IoU, CVPR 2021, arXiv
    2103.16562, where single objects are scored and averaged.

    Args:
        width: d in pixels; None takes 2 % of the image's diagonal.

    Values:
        boundary_miou, boundary_iou_per_class. boundary_width: d in pixels, the mean over the images.

    Counts:
        areas: (K, 2) int64, |G_d and P_d| and |G_d or P_d|. widths: the sum of the images' d, and how many images.
    """

    reads_scores = False
    headline = {"boundary_miou": "boundary mIoU (%)"}

    def __init__(self, split: Split, *, width: Annotated[int, Interval(ge=1, le=1024)] | None = None):
        super().__init__(split)
        self.width = width

    def count(self, scores: Tensor | None, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        width, void = self.width or default_width(target.shape[-2:]), self.split.num_classes
        ignored = ~self.split.is_labelled(target)
        # void is one class more, which both maps have at the same pixels
        maps = [labels.masked_fill(ignored, void) for labels in (prediction, target)]
        # (B, H, W): the class of a pixel in its band, void elsewhere
        bands = [labels.masked_fill(~band(labels, width, border=True), void) for labels in maps]
        met = bands[0].masked_fill(bands[0] != bands[1], void)
        areas = [torch.bincount(classes.flatten(), minlength=void + 1)[:void] for classes in (*bands, met)]
        return {
            "areas": torch.stack([areas[2], areas[0] + areas[1] - areas[2]], dim=1),
            "widths": target.new_tensor([width * len(target), len(target)]),
        }

    def values(self, counts: dict[str, Tensor]) -> Values:
        iou = ratios(*counts["areas"].unbind(1), self.split.absent)
        pixels, images = counts["widths"].tolist()
        return {
            "boundary_miou": iou.nanmean().item(),
            "boundary_iou_per_class": iou.tolist(),
            "boundary_width": pixels / images if images else float("nan"),
        }

    def text(self, values: Values) -> str:
        width = f"{values['boundary_width']:g} pixels"
        width += "" if self.width else f", {100 * SHARE:g} % of the image's diagonal"
        return (
            f"boundary mIoU {percent(values['boundary_miou'])} % in bands of {width}: "
            f"{per_class(self.split.class_names, values['boundary_iou_per_class'])}"
        )


def default_width(size: tuple[int, int]) -> int:
    """Pixels that 2 % of the diagonal of an image of this height and width are, at least 1."""
    return max(1, round(SHARE * (size[0] ** 2 + size[1] ** 2) ** 0.5))
