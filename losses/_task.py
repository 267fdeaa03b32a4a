"""What a loss is built with: the sizes of this run, and the features of the two networks it compares.

What all losses share is said in this place, and a loss's own docstring adds what is particular to it:

    Args:
        task: sizes of this run; it has a teacher where forward's `teacher` may not be None.
        feature: name of the student's feature, as its network's file documents it; `head` is what the classifier reads.
        teacher_feature: name of the teacher's feature; the same name when left out.
        label_resize: how labels come to the size of a map, see _regions.labels_at.
        temperature: T, in units of what the softmax reads.
        mask_ignored: leave out pixels whose label is ignored (labels are resized to nearest); the released codes count
            them all.
        size: at whose resolution scores are compared; those of the other network, or of both, are resized bilinearly,
            by the rule of each network's own family.

    Shapes:
        student, teacher: scores (B, K, h, w) and (B, K, h', w'), unnormalised, and features (B, C, h, w) and
        (B, C', h', w') of any channels; what is compared of the student is resized bilinearly to the teacher's size.
        target: (B, H, W) int64, classes or task.ignore_index; of it a loss with `label_free = True` reads no labels, at
        most the size and what is ignored. returns: a scalar, or {part: scalar}, before the term's weight. Gradients
        reach both networks, and the term's `detach` decides about the teacher, but for a loss with `detaches_source =
        True`. B, and what a mean is over, are the images that one process computes at a time: a step averages its
        processes and its accumulated parts.

    Raises:
        ValueError: a feature that a network does not have; the error lists those it has. Where parts have weights, one
            of 0 leaves its part out; all of them 0 is an error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

# ranges of arguments; a recipe outside them is refused when it is read
Positive = Annotated[float, Interval(gt=0, le=1e6)]
Weight = Annotated[float, Interval(ge=0, le=1e9)]
Share = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Interval(ge=1, le=2**20)]
# outside, the T^2 of a loss multiplies little but the rounding of float32
Temperature = Annotated[float, Interval(ge=1e-3, le=1e3)]


class Prediction(Protocol):
    """What a loss reads of a network's forward pass (rooms do not import each other, so its shape is repeated here).

    Attributes:
        logits: (B, K, h, w) at the head's own stride. align_corners: how this family resizes its maps.
        aux: (B, K, h', w') scores of the auxiliary head, or None. features: name -> (B, C, h, w).
    """

    logits: Tensor
    align_corners: bool
    aux: Tensor | None
    features: dict[str, Tensor]


@dataclass(frozen=True)
class Features:
    """The named feature maps of one network: channels and strides are true before any forward.

    `wanted` collects the names some loss reads, so that a network keeps only those alive; `aux` among them means the
    scores of the auxiliary head, which a network makes outside training only when asked. `norms` has weight and bias,
    each (C,), of the batch norm a feature comes from, for the features whose batch norm the network names. `measure`
    lists a feature in `channels` and `strides` that a network looks for only when it is asked for one of that name.
    `named_scores` collects which of the two maps of scores, `logits` and `aux`, a loss says it reads; see `scores`.
    """

    owner: str
    channels: dict[str, int]
    strides: dict[str, int]
    wanted: set[str] = field(default_factory=set)
    named_scores: set[str] = field(default_factory=set)
    norms: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    has_aux: bool = False
    measure: Callable[[str], None] = lambda name: None

    def use(self, name: str) -> int:
        """Channels of the feature `name`, which the network keeps from now on. ValueError lists those it has."""
        if name not in self.channels:
            self.measure(name)
        if name not in self.channels:
            known = ", ".join(self.channels)
            raise ValueError(f"{self.owner} has no feature {name!r}; it has: {known}; name one in the loss's args")
        self.wanted.add(name)
        return self.channels[name]

    def ask_for_aux(self) -> bool:
        """Whether the network has an auxiliary head; if so, from now on it gives its scores in eval mode too."""
        if self.has_aux:
            self.wanted.add("aux")
            self.named_scores.add("aux")
        return self.has_aux

    def read_heads(self) -> None:
        """Notes that a loss reads the head's scores and, in training, an auxiliary head's, see `of_heads`."""
        self.named_scores.update({"logits", "aux"} if self.has_aux else {"logits"})

    @property
    def scores(self) -> set[str]:
        """The maps of scores that a loss reads: `logits` where it names none of them and no feature."""
        return self.named_scores or (set() if self.wanted else {"logits"})

    def norm_of(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of the batch norm the feature `name` comes from. ValueError lists those known."""
        if name not in self.norms:
            known = ", ".join(self.norms) or "none"
            raise ValueError(f"{self.owner} does not name the batch norm of feature {name!r}; known are: {known}")
        return self.norms[name]


@dataclass(frozen=True)
class LabelCounts:
    """How often each class occurs in training labels; pixels that are ignored do not count.

    Attributes:
        pixels: of each class. images: that show it. pixels_of_images: of all classes, in the images that show it.
        total_images: of the training set.
    """

    pixels: Sequence[int]
    images: Sequence[int]
    pixels_of_images: Sequence[int]
    total_images: int


@dataclass(frozen=True)
class Task:
    """Sizes of one run as a loss sees them.

    Attributes:
        num_classes: K. ignore_index: the target value no loss counts.
        student: features of the network the term trains. teacher: of the network it learns from, or None.
        label_counts: gives those of the training labels, which are all read for it; None where nothing is known of them.
    """

    num_classes: int
    ignore_index: int
    student: Features
    teacher: Features | None = None
    label_counts: Callable[[], LabelCounts] | None = None


def at_least_float32(x: Tensor) -> Tensor:
    """Half types are raised to float32, float32 and float64 stay: the delicate parts of a loss start with this."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def resize(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear resize of (B, C, h, w) to `size`; a map that has the size already is returned as it is."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def of_heads(
    of_head: Callable[[Tensor, Tensor, bool], Tensor], student: Prediction, target: Tensor, aux_weight: float
) -> Tensor:
    """L(logits) + aux_weight * L(aux), a scalar, with L = of_head(scores, target, align_corners); L(logits) without aux."""
    loss = of_head(student.logits, target, student.align_corners)
    if student.aux is not None:
        loss = loss + aux_weight * of_head(student.aux, target, student.align_corners)
    return loss


def scores_at(prediction: Prediction, size: tuple[int, int]) -> Tensor:
    """(B, K, *size) scores, at least float32, resized by the rule of the network's own family."""
    return resize(at_least_float32(prediction.logits), size, prediction.align_corners)
