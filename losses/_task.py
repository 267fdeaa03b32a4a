"""What a loss is built with: the sizes of this run, and the features of the two networks it compares."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Prediction(Protocol):
    """What a loss reads of a network's forward pass (rooms do not import each other, so the shape of it stands here).

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

    `wanted` collects the names some loss reads, so that a network keeps only those alive; `aux` in it stands for the
    scores of the auxiliary head, which a network makes outside training only when asked. `norms` has weight and bias,
    each (C,), of the batch norm a feature comes from, for those features of which the network tells it.
    """

    owner: str
    channels: dict[str, int]
    strides: dict[str, int]
    wanted: set[str] = field(default_factory=set)
    norms: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    has_aux: bool = False

    def use(self, name: str) -> int:
        """Channels of the feature `name`, which the network keeps from now on. ValueError lists those it has."""
        if name not in self.channels:
            raise ValueError(f"{self.owner} has no feature {name!r}; it has: {', '.join(self.channels)}")
        self.wanted.add(name)
        return self.channels[name]

    def ask_for_aux(self) -> bool:
        """Whether the network has an auxiliary head; if so, from now on it gives its scores in eval mode too."""
        if self.has_aux:
            self.wanted.add("aux")
        return self.has_aux

    def norm_of(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of the batch norm the feature `name` comes from. ValueError lists those known."""
        if name not in self.norms:
            known = ", ".join(self.norms) or "none"
            raise ValueError(f"{self.owner} does not tell the batch norm of feature {name!r}; those it tells: {known}")
        return self.norms[name]


@dataclass(frozen=True)
class Task:
    """Sizes of one run as a loss sees them.

    Attributes:
        num_classes: K. ignore_index: the target value no loss counts.
        student: features of the network the term trains. teacher: of the network it learns from, or None.
    """

    num_classes: int
    ignore_index: int
    student: Features
    teacher: Features | None = None


def at_least_float32(x: Tensor) -> Tensor:
    """Half types are raised to float32, float32 and float64 stay: the delicate parts of a loss start with this."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def resize(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear resize of (B, C, h, w) to `size`; a map that has the size already is returned as it is."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)
