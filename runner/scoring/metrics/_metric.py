"""What every metric has: counts of a batch that add up, values that follow from them, and words for the values."""

import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from segkd.runner.console import percent

Values = dict[str, float | list]


@dataclass(frozen=True)
class Split:
    """What is scored, and how: all that a metric is built with besides its own arguments.

    Attributes:
        class_names, ignore_index: of the labels.
        absent: what a class counts in a mean over classes if it has no pixel: nothing (skip), or 0 (zero).
        average: what the scores of `Metric.count` are, logits or probabilities (softmax).
    """

    class_names: tuple[str, ...]
    ignore_index: int = 255
    absent: Literal["skip", "zero"] = "skip"
    average: Literal["logits", "softmax"] = "logits"

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def is_labelled(self, target: Tensor) -> Tensor:
        """(B, H, W) bool: the pixels that count, of a class 0..K-1 that is not ignore_index."""
        return (target != self.ignore_index) & (target >= 0) & (target < self.num_classes)


class Metric(abc.ABC):
    """Base of all metrics. A recipe names a metric by its file and passes keyword arguments to its constructor.

    Attributes:
        per_image: the names of counts that have one row for each image of the batch. They are not added up but kept
            for each image of the split.
        reads_scores: whether `count` reads the scores of all classes. Where no metric does, they are never made at the
            size of the label, which saves most of the memory.
        headline: the values that are shown at each evaluation and as columns of comparisons, with their titles. A
            title that ends in (%) belongs to a share, which is shown in percent.
    """

    per_image: ClassVar[tuple[str, ...]] = ()
    reads_scores: ClassVar[bool] = True  # to forget it costs memory and nothing else
    headline: ClassVar[dict[str, str]] = {}

    def __init__(self, split: Split):
        self.split = split

    @abc.abstractmethod
    def count(self, scores: Tensor | None, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Counts a batch. The counts of batches and processes are added, so a batch without an image gives zeros.

        Shapes:
            scores: (B, K, H, W) logits or probabilities, see `Split.average`; None unless the metric `reads_scores`.
            prediction: (B, H, W) their argmax.
            target: (B, H, W) classes; pixels that are ignore_index or outside 0..K-1 have no label.
            returns: tensors of any shape by name, on the device of the target; those in `per_image` are (B, ...).
        """

    @abc.abstractmethod
    def values(self, counts: dict[str, Tensor]) -> Values:
        """What follows from the counts of a whole split: numbers, and lists with one number for each class.

        Names begin with the metric's own name, so that metrics.jsonl, wandb, summary.json and score.py --output can
        hold the values of all metrics side by side. Shares are in 0..1; NaN is a value that does not exist.
        """

    @abc.abstractmethod
    def text(self, values: Values) -> str:
        """The values as Markdown, for the console and for report.md.

        Args:
            values: what `values` gave, or what JSON made of it: None in place of NaN.
        """


def ratios(parts: Tensor, wholes: Tensor, absent: Literal["skip", "zero"]) -> Tensor:
    """(K,) parts / wholes in float64. A class whose whole is empty has NaN, which a nanmean skips, or 0."""
    found = parts.double() / wholes.double()
    return found.nan_to_num(0.0) if absent == "zero" else found


def per_class(class_names: Iterable[str], shares: Iterable[float | None]) -> str:
    """`sky 88.10, pole -` in percent."""
    return ", ".join(f"{name} {percent(share)}" for name, share in zip(class_names, shares))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned on a console too: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        f"| {' | '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])} |"
        for line in (columns, rule, *rows)
    )
