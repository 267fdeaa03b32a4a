"""Overhaul: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, arXiv 1904.01866."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._task import Prediction, Task, at_least_float32, resize


class Overhaul(nn.Module):
    """Squared distance to the teacher's features before their ReLU, where it matters behind the ReLU.

        t' = max(t, m),   L = 1/B sum_l 1/d_l sum_bcn [ x > t' or t' > 0 ] (x - t')^2,   x = batch_norm(W s)

    m_c, the margin of a channel, is the mean of the teacher's negative values there; where the teacher is negative, the
    student has to come below m and is then left alone. d_l is a divisor for each of the features l.

    Source: the margin ReLU and the partial L2 distance of sections 3.1 to 3.3, as in the authors' segmentation code
    (weight 1e-5), of which AICSD's is a copy. The published divisors are 8, 4, 2, 1 for the four stages, 1 for ASPP
    and 16 for the decoder.

    Args:
        task: sizes of this run; needs a teacher.
        features: names of the student's features, before their ReLU.
        teacher_features: names of the teacher's, as many; the same names when left out.
        divisors: d_l, as many.
        margin: how m is found. `batch_norm`, as released: once, from weight w and bias b of the batch norm behind the
            teacher's feature, as the mean of what N(b, w^2) has below 0, or -3 |w| where that is less than 0.1 % of it.
            `measured`: over all negative values seen so far on all processes, for a teacher that does not tell its
            batch norms. `none`: no margin, t' = t.

    Shapes:
        student.features[f]: (B, C, h, w); teacher.features[f]: (B, C', h', w'). A student map of another size is
        resized bilinearly to the teacher's, behind W (1x1, no bias) and its batch norm, both learnt. target: not used.
        returns: scalar, a sum over C'*h'*w', mean over B, in squared feature units.

    Raises:
        ValueError: no teacher, lists of different lengths, a divisor <= 0, a feature that a network does not have (the
            error lists those it has), or batch_norm with a teacher's feature of unknown batch norm.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        features: tuple[str, ...] = ("stage1_pre", "stage2_pre", "stage3_pre", "stage4_pre"),
        teacher_features: tuple[str, ...] | None = None,
        divisors: tuple[float, ...] = (8.0, 4.0, 2.0, 1.0),
        margin: Literal["batch_norm", "measured", "none"] = "batch_norm",
    ):
        super().__init__()
        if task.teacher is None:
            raise ValueError("overhaul: a teacher is needed; name the network to learn from in the term's `from`")
        teacher_features = features if teacher_features is None else teacher_features
        if not len(features) == len(teacher_features) == len(divisors) > 0:
            raise ValueError(
                f"overhaul: features, teacher_features and divisors must be as many, at least one; "
                f"got {len(features)}, {len(teacher_features)} and {len(divisors)}"
            )
        if min(divisors) <= 0:
            raise ValueError(f"overhaul: divisors must be above 0, got {list(divisors)}")
        self.features, self.teacher_features, self.divisors = features, teacher_features, divisors
        self.margin = margin
        names = zip(features, teacher_features)
        widths = [(task.student.use(s), task.teacher.use(t)) for s, t in names]
        self.connectors = nn.ModuleList([connector(*width) for width in widths])
        if margin == "batch_norm":
            for index, name in enumerate(teacher_features):
                # from the teacher's checkpoint each time, not from this run's
                self.register_buffer(f"margin{index}", margins(*task.teacher.norm_of(name)), persistent=False)
        elif margin == "measured":
            for index, (_, channels) in enumerate(widths):
                # the same on all processes; float64 counts pixels exactly
                self.register_buffer(f"negative{index}", torch.zeros(2, channels, dtype=torch.float64))

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        total = 0
        for index, (name, teacher_name) in enumerate(zip(self.features, self.teacher_features)):
            goal = at_least_float32(teacher.features[teacher_name]).detach()  # (B, C', h', w')
            guess = at_least_float32(self.connectors[index](student.features[name]))
            guess = resize(guess, goal.shape[-2:], student.align_corners)
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
