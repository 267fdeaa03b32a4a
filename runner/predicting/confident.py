"""Predicted classes where a network is sure of them: what is less sure is ignored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from segkd.datasets._files import IGNORE_INDEX

PER_UNIT = 256  # steps of sureness in a unit of -ln(1 - p): each takes 0.4 % from what is missing to certainty
STEPS = 17 * PER_UNIT  # float32 knows no p closer to 1


@dataclass(frozen=True)
class Rule:
    """Which pixels keep their class.

    Attributes:
        confidence: those whose class has at least this probability; None: `share` decides.
        share: of the pixels that are predicted to be of a class, in all images, the surest ones, rounded up to whole
            steps of sureness (of equal ones all are kept). Thresholds of classes as in CBST, Zou et al., ECCV 2018: one
            probability for all would drop the rare and difficult ones.
    """

    confidence: float | None = None
    share: float | None = None

    @property
    def described(self) -> dict:
        """In plain values."""
        return {"confidence": self.confidence} if self.share is None else {"share": self.share}

    def labels(self, scores: Tensor, lowest: Tensor | None, average: str = "logits") -> Tensor:
        """(B, H, W) uint8: the class of the highest score, or 255.

        Args:
            scores: (B, K, H, W). average: what they are, logits or probabilities (softmax).
            lowest: (K,), the lowest step of each class that is kept, of `lowest_steps`; with `share`.
        """
        classes, confidence = sure_classes(scores, average)
        if self.share is None:
            kept = confidence >= self.confidence
        else:
            kept = steps_of(confidence) >= lowest.to(scores.device)[classes]
        return torch.where(kept, classes, IGNORE_INDEX).to(torch.uint8)


def sure_classes(scores: Tensor, average: str = "logits") -> tuple[Tensor, Tensor]:
    """(B, H, W) int64 classes, and (B, H, W) float32, the probability of each. ValueError: there is none, but NaN."""
    probabilities = scores if average == "softmax" else scores.softmax(1)
    confidence = probabilities.amax(1)
    if confidence.isnan().any():
        raise ValueError(
            "pseudo-labels: the network's scores of an image are NaN or infinite, so none can be made of them; check "
            "its weights, its normalize and its precision"
        )
    # of the scores: rounding may tie what they order
    return scores.argmax(1), confidence


def steps_of(confidence: Tensor) -> Tensor:
    """int64, floor(256 * -ln(1 - p)), at most STEPS - 1: a scale that is fine near certainty, where most pixels are."""
    return (-PER_UNIT * torch.log1p(-confidence.double())).clamp(max=STEPS - 1).long()


def count_steps(scores: Tensor, average: str = "logits") -> Tensor:
    """(K, STEPS) int64: how many pixels are predicted to be of a class, by how sure that is. Counts add up."""
    classes, confidence = sure_classes(scores, average)
    cells = classes * STEPS + steps_of(confidence)
    return torch.bincount(cells.flatten(), minlength=scores.shape[1] * STEPS).view(scores.shape[1], STEPS)


def lowest_steps(counts: Tensor, share: float) -> Tensor:
    """(K,) the highest step at or above which this share of a class's pixels lies."""
    above = counts.flip(1).cumsum(1).flip(1)  # (K, STEPS)
    return (above >= share * counts.sum(1, keepdim=True).double()).sum(1) - 1
