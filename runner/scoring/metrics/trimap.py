"""Trimap IoU: how well the pixels beside the contours of the label are classified."""

from typing import Annotated

from annotated_types import Interval
from torch import Tensor

from segkd.runner.console import percent
from segkd.runner.scoring.metrics._bands import band
from segkd.runner.scoring.metrics._metric import Metric, Split, Values, per_class, ratios
from segkd.runner.scoring.metrics.confusion import areas, confusion_matrix


class Trimap(Metric):
    """Mean over classes, and per class, of the IoU of the pixels near a contour of the label.

        IoU_c = I_c / U_c, counted where the square of side 2 * width + 1 around a pixel holds another label

    on both sides of a contour, over the whole split. Ignored pixels are a label of their own, so the outlines that VOC
    marks with them are contours; they are not counted themselves. The border of the image is no contour. The band is
    that of the label alone: what a prediction does elsewhere does not matter. Source: Kohli, Ladicky, Torr, Robust higher
    order potentials for enforcing label consistency, IJCV 2009, who give the share of wrong pixels; the IoU as in Chen
    et al., DeepLab, TPAMI 2018, arXiv 1606.00915.

    Args:
        width: of the band on each side of a contour, in pixels.

    Values:
        trimap_miou, trimap_iou_per_class.

    Counts:
        areas: (K, 3) int64, see `confusion.areas`.
    """

    reads_scores = False
    headline = {"trimap_miou": "trimap mIoU (%)"}

    def __init__(self, split: Split, *, width: Annotated[int, Interval(ge=1, le=1024)] = 5):
        super().__init__(split)
        self.width = width

    def count(self, scores: Tensor | None, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        num_classes, ignore_index = self.split.num_classes, self.split.ignore_index
        labels = target.masked_fill(~self.split.is_labelled(target), num_classes)
        near = target.masked_fill(~band(labels, self.width, border=False), ignore_index)
        return {"areas": areas(confusion_matrix(prediction, near, num_classes, ignore_index))}

    def values(self, counts: dict[str, Tensor]) -> Values:
        correct, labelled, predicted = counts["areas"].unbind(1)
        iou = ratios(correct, labelled + predicted - correct, self.split.absent)
        return {"trimap_miou": iou.nanmean().item(), "trimap_iou_per_class": iou.tolist()}

    def text(self, values: Values) -> str:
        return (
            f"trimap mIoU {percent(values['trimap_miou'])} % within {self.width} pixels of the label's contours: "
            f"{per_class(self.split.class_names, values['trimap_iou_per_class'])}"
        )
