"""PHI-S: Ranzinger et al., "PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation", 2410.01680."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from ._pair import Pair
from ._regions import labels_at
from ._relations import inverse_norm
from ._standardization import Standardization
from ._task import Count, Positive, Prediction, Share, Task, at_least_float32, resize


class PhiS(nn.Module):
    """Direction and size of a teacher's feature, of which every channel has been brought to mean 0 and one variance.

        y = W (t - mean),    L = (1 - l1_weight) * mean_bn ( 1 - cos(P s, y) ) + l1_weight * mean_bnc h_beta(P s - y)
        W = a H V^T,    a = 1 / sqrt( mean of e ),    covariance of t = V diag(e) V^T

    with h the smooth L1 distance, d^2 / (2 beta) below beta, else |d| - beta / 2. H is a Hadamard matrix, which mixes
    the principal axes evenly, so that each channel of y has variance 1: a rotation and one scale for each teacher, no
    whitening. Terms of several teachers then weigh the same, whatever the scales of their features. P, trained with the
    student, is there only where the widths differ. In the teacher's own space a prediction is W^-1 P s + mean.

    Source: the paper and AM-RADIO (Ranzinger et al., arXiv 2312.06709) as NVIDIA's TAO 6.25 has them; the texts were
    not at hand. Several teachers are one term each. Mean and covariance are those of all images so far, of all
    processes, in float64; W is taken anew every `update_period` batches and all is left as it is after 30 times as
    many. Both maps are compared at the smaller height and the smaller width. W is not unique: it is saved.

    Args:
        l1_weight: share of the smooth L1 distance. beta: in standard deviations.
        rotate: False leaves H V^T out of W, which for a linear P makes little difference.
        update_period: in batches.
        projection: P. `linear`: with a bias. `mlp`: a linear map to `hidden` channels, `blocks` layers
            x + linear(gelu(norm(x))) and linear(gelu(norm(x))) to the teacher's.
        hidden, blocks: of the mlp.
        mask_ignored: leave pixels whose label is ignored, such as padding, out of mean and covariance too.

    Returns:
        scalar without unit, mean over positions and channels; 0 when no pixel is counted. The teacher gets no gradient.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "stage4",
        teacher_feature: str | None = None,
        l1_weight: Share = 0.1,
        beta: Positive = 2.0,
        rotate: bool = True,
        update_period: Count = 100,
        projection: Literal["linear", "mlp"] = "linear",
        hidden: Count = 1024,
        blocks: Annotated[int, Interval(ge=0, le=64)] = 0,
        mask_ignored: bool = False,
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.ignore_index = task.ignore_index
        self.l1_weight, self.beta = l1_weight, beta
        self.mask_ignored = mask_ignored
        self.scale = Standardization(self.pair.teacher_channels, rotate, update_period)
        widths = self.pair.student_channels, self.pair.teacher_channels
        self.projection = None
        if widths[0] != widths[1]:
            self.projection = nn.Linear(*widths) if projection == "linear" else mlp(*widths, hidden, blocks)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = self.pair.read(student, teacher)
        goal = goal.detach()
        if self.training:
            self.scale.update(goal, self.counted(target, goal))
        goal = self.scale(goal)
        size = tuple(map(min, guess.shape[-2:], goal.shape[-2:]))
        guess = resize(guess, size, student.align_corners).movedim(1, 3)  # (B, h, w, C)
        goal = resize(goal, size, teacher.align_corners).movedim(1, 3)  # (B, h, w, C')
        if self.projection is not None:
            guess = at_least_float32(self.projection(guess))
        distance, l1 = self.distances(guess, goal, self.counted(target, goal.movedim(3, 1)))
        return (1 - self.l1_weight) * distance + self.l1_weight * l1

    def counted(self, target: Tensor, features: Tensor) -> Tensor | None:
        """(B, h, w), True where the label is not ignored, or None for all positions of (B, C, h, w)."""
        return labels_at(target, features.shape[-2:]) != self.ignore_index if self.mask_ignored else None

    def distances(self, guess: Tensor, goal: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Means of 1 - cosine and of the smooth L1 distance of (B, h, w, C') vectors, those that are counted."""
        if counted is not None:
            guess, goal = guess[counted], goal[counted]  # (n, C')
        with torch.autocast(goal.device.type, enabled=False):
            product = (guess * goal).sum(-1, keepdim=True)
            cosine = product * inverse_norm(guess, -1) * inverse_norm(goal, -1)
            l1 = F.smooth_l1_loss(guess, goal, reduction="sum", beta=self.beta)
            return (1 - cosine).sum() / max(cosine.numel(), 1), l1 / max(goal.numel(), 1)


class _Block(nn.Sequential):
    """linear(gelu(norm(x))) of (..., C) -> (..., C')."""

    def __init__(self, channels: int, wide: int):
        super().__init__(nn.LayerNorm(channels), nn.GELU(), nn.Linear(channels, wide))


class _Residual(_Block):
    """x + linear(gelu(norm(x)))."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def mlp(channels: int, wide: int, hidden: int, blocks: int) -> nn.Sequential:
    """The projection to `wide` channels; it begins without an offset."""
    last = _Block(hidden, wide)
    nn.init.zeros_(last[-1].bias)
    return nn.Sequential(nn.Linear(channels, hidden), *(_Residual(hidden, hidden) for _ in range(blocks)), last)
