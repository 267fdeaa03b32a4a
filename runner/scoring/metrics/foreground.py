"""Mean IoU and Dice over all classes but some, such as the background of objects."""

from torch import Tensor

from segkd.runner.console import percent
from segkd.runner.scoring.metrics._metric import Metric, Split, Values
from segkd.runner.scoring.metrics.confusion import confusion_matrix, scores


class Foreground(Metric):
    """The means of `confusion`'s IoU and Dice without some of the classes.

    Pixels of the classes left out still count where another class is predicted on them: leaving a class out of the mean
    does not ignore it.

    Args:
        leave_out: the classes, by name; None: the first one, which is the background of most sets of objects.

    Values:
        foreground_miou, foreground_dice.

    Counts:
        matrix: (K, K) int64, see `confusion`.

    Raises:
        ValueError: a class that is not there, or none that is left.
    """

    reads_scores = False
    headline = {"foreground_miou": "foreground mIoU (%)"}

    def __init__(self, split: Split, *, leave_out: tuple[str, ...] | None = None):
        super().__init__(split)
        self.left_out = split.class_names[:1] if leave_out is None else leave_out
        unknown = [name for name in self.left_out if name not in split.class_names]
        if unknown:
            raise ValueError(f"leave_out: there is no class {unknown[0]!r}; there are: {', '.join(split.class_names)}")
        self.kept = [index for index, name in enumerate(split.class_names) if name not in self.left_out]
        if not self.kept:
            raise ValueError("leave_out: no class is left")

    def count(self, scores: Tensor | None, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"matrix": confusion_matrix(prediction, target, self.split.num_classes, self.split.ignore_index)}

    def values(self, counts: dict[str, Tensor]) -> Values:
        found = scores(counts["matrix"], self.split.absent)
        iou, dice = (Tensor(found[name])[self.kept] for name in ("iou_per_class", "dice_per_class"))
        return {"foreground_miou": iou.nanmean().item(), "foreground_dice": dice.nanmean().item()}

    def text(self, values: Values) -> str:
        return (
            f"without {', '.join(self.left_out)}: mIoU {percent(values['foreground_miou'])} %, "
            f"Dice {percent(values['foreground_dice'])} %"
        )
