"""Overhaul: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, arXiv 1904.01866."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from ._pair import Pair
from ._task import Positive, Prediction, Task


class Overhaul(nn.Module):
    """Squared distance to the teacher's features before their ReLU, where it matters behind the ReLU.

        t' = max(t, m),   L = 1/B sum_l 1/d_l sum_bcn [ x > t' or t' > 0 ] (x - t')^2,   x = batch_norm(W s)

    m_c, the margin of a channel, is the mean of the teacher's negative values there; where the teacher is negative, the
    student has to come below m and is then left alone. d_l is a divisor for each of the features l. W, 1x1 without
    bias, and its batch norm are learnt and come before the resize to the teacher's size.

    Source: the margin ReLU and the partial L2 distance of sections 3.1 to 3.3, as in the authors' segmentation code
    (weight 1e-5), of which AICSD's is a copy. The published divisors are 8, 4, 2, 1 for the four stages, 1 for ASPP
    and 16 for the decoder.

    Args:
        features: names of the student's features, before their ReLU.
        teacher_features: names of the teacher's, as many; the same names when left out.
        divisors: d_l, as many, above 0.
        margin: how m is found. `batch_norm`, as released: once, from weight w and bias b of the batch norm behind the
            teacher's feature, as the mean of what N(b, w^2) has below 0, or -3 |w| where that is less than 0.1 % of it.
            `measured`: over all negative values seen so far on all processes, for a teacher whose batch norms are not
            known. `none`: no margin, t' = t.

    Returns:
        scalar, a sum over C'*h'*w', mean over B, in squared feature units. The teacher gets no gradient.

    Raises:
        ValueError: lists of different lengths, or batch_norm with a teacher's feature of unknown batch norm.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        features: Annotated[tuple[str, ...], MinLen(1)] = ("stage1_pre", "stage2_pre", "stage3_pre", "stage4_pre"),
        teacher_features: tuple[str, ...] | None = None,
        divisors: tuple[Positive, ...] = (8.0, 4.0, 2.0, 1.0),
        margin: Literal["batch_norm", "measured", "none"] = "batch_norm",
    ):
        super().__init__()
        of_teacher = features if teacher_features is None else teacher_features
        if not len(features) == len(of_teacher) == len(divisors):
            raise ValueError(
                f"overhaul: features, teacher_features and divisors must be as many; "
                f"got {len(features)}, {len(of_teacher)} and {len(divisors)}"
            )
        self.divisors = divisors
        self.margin = margin
        self.pairs = [Pair(task, *names) for names in zip(features, of_teacher, strict=True)]
        self.connectors = nn.ModuleList(connector(pair.student_channels, pair.teacher_channels) for pair in self.pairs)
        if margin == "batch_norm":
            for index, pair in enumerate(self.pairs):
                # from the teacher's checkpoint each time, not from this run's
                self.register_buffer(f"margin{index}", margins(*task.teacher.norm_of(pair.teacher)), persistent=False)
        elif margin == "measured":
            for index, pair in enumerate(self.pairs):
                # the same on all processes; float64 counts pixels exactly
                self.register_buffer(f"negative{index}", torch.zeros(2, pair.teacher_channels, dtype=torch.float64))

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        total = 0
        for index, pair in enumerate(self.pairs):
            guess, goal = pair.maps(student, teacher, self.connectors[index])
            goal = goal.detach()
            if self.margin != "none":
                goal = torch.maximum(goal, self.margin_of(index, goal).to(goal.dtype).view(1, -1, 1, 1))
            total = total + partial_l2(guess, goal) / (len(goal) * self.divisors[index])
        return total

    def margin_of(self, index: int, goal: Tensor) -> Tensor:
        """(C',) margins of one feature; with `measured`, the map counts first."""
        if self.margin == "batch_norm":
            return self.get_buffer(f"margin{index}")
        seen = self.get_buffer(f"negative{index}")
        negative = goal.clamp_max(0)
        if self.training:
            new = torch.stack([negative.sum((0, 2, 3)), (negative < 0).sum((0, 2, 3))]).to(seen.dtype)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(new)
            seen += new
        # a channel that was never negative needs no margin
        return seen[0] / seen[1].clamp_min(1)


def connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """The map from the student's channels to the teacher's, with the original's initial weights."""
    conv = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / teacher_channels))
    return nn.Sequential(conv, nn.BatchNorm2d(teacher_channels))


def margins(weight: Tensor, bias: Tensor, least_share: float = 1e-3) -> Tensor:
    """Mean of the negative part of N(bias, weight^2) for each channel, (C,) -> (C,) float32 as in the original.

    m = b - s phi(b / s) / Phi(-b / s),  s = |w|;   -3 s where Phi(-b / s) <= least_share
    """
    bias = bias.detach().double()
    scale = weight.detach().double().abs().clamp_min(torch.finfo(torch.float64).tiny)  # a weight of 0 leaves the bias
    ratio = bias / scale
    share = torch.special.ndtr(-ratio)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    mean = bias - scale * density / share.clamp_min(least_share)
    return torch.where(share > least_share, mean, -3 * scale).float()


def partial_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of (s - t)^2 over the places where s > t or t > 0; elsewhere both are silent behind a ReLU."""
    with torch.no_grad():
        # a place that is left alone has itself for a goal: fewer maps to keep than with a mask
        goal = torch.where((student > teacher) | (teacher > 0), teacher, student)
    return F.mse_loss(student, goal, reduction="sum")
