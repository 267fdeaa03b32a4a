"""AttnFD: Mansourian et al., "Attention as Geometric Transformation: ...", arXiv 2403.05451."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from ._pair import Pair
from ._relations import inverse_norm
from ._task import Count, Prediction, Task, at_least_float32
from .overhaul import connector


class AttnFD(nn.Module):
    """Squared distance of the two networks' features after gates on channels and positions, each batch of unit norm.

        A(x) = x1 * sigmoid( BN(conv7x7[max_c x1, mean_c x1]) ),    x1 = x * sigmoid( MLP(mean_n x) + MLP(max_n x) )
        S = BN( W A_s(s) ),    T = A_t(t),    L = 1/B sum_l || S / ||S|| - T / ||T|| ||^2,    norms of the whole batch

    The distance is 2 - 2 cos(S, T), so that images and pixels with large activations dominate. W is a 1x1 convolution
    without bias, with equal widths too; it and the student's gates are trained with the student.

    Source: the released code, weight 2, on `stage4_pre`, `aspp` and `decoder` of AICSD's DeepLabV3+; the paper's text
    was not at hand. There the teacher's gates are `learned` ones that nothing ever trains, the linear maps in the
    student's stay as they were made, W is trained in the first pass alone, in which the student learns nothing, and the
    teacher runs in training mode. None of that is copied. Batch statistics and norms are those of the images that one
    process has at a time.

    Args:
        features: names of the student's features. teacher_features: of the teacher's, as many; the same when left out.
        reduction: the MLP's hidden layer has this many times fewer channels.
        teacher_gate: `free`: A without parameters: MLP(v) = v, and max_c x1 + mean_c x1 in the second gate. `learned`:
            random and frozen, saved with the run.

    Returns:
        scalar without unit, at most 4 / B for each feature. The teacher gets no gradient.

    Raises:
        ValueError: lists of different lengths, or features of fewer channels than `reduction`.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        features: Annotated[tuple[str, ...], MinLen(1)] = ("stage4_pre", "head"),
        teacher_features: tuple[str, ...] | None = None,
        reduction: Count = 16,
        teacher_gate: Literal["free", "learned"] = "free",
    ):
        super().__init__()
        of_teacher = features if teacher_features is None else teacher_features
        if len(features) != len(of_teacher):
            raise ValueError(
                f"attnfd: features and teacher_features must be as many; got {len(features)} and {len(of_teacher)}"
            )
        self.pairs = [Pair(task, *names) for names in zip(features, of_teacher, strict=True)]
        learned = [pair.student_channels for pair in self.pairs]
        learned += [pair.teacher_channels for pair in self.pairs] if teacher_gate == "learned" else []
        if min(learned) < reduction:
            raise ValueError(f"attnfd: reduction {reduction} leaves nothing of a feature of {min(learned)} channels")
        self.student_gates = nn.ModuleList(_Gate(pair.student_channels, reduction) for pair in self.pairs)
        self.teacher_gates = None
        if teacher_gate == "learned":
            self.teacher_gates = nn.ModuleList(_Gate(pair.teacher_channels, reduction) for pair in self.pairs)
            self.teacher_gates.requires_grad_(False)
        self.connectors = nn.ModuleList(connector(pair.student_channels, pair.teacher_channels) for pair in self.pairs)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        total = 0
        for index, pair in enumerate(self.pairs):
            guess, goal = pair.maps(student, teacher)
            guess = at_least_float32(self.connectors[index](self.student_gates[index](guess))).flatten()
            with torch.no_grad():
                of_teacher = gate_freely if self.teacher_gates is None else self.teacher_gates[index]
                images, goal = len(goal), at_least_float32(of_teacher(goal)).flatten()
            with torch.autocast(goal.device.type, enabled=False):
                cosine = (guess @ goal) * inverse_norm(guess, 0, 1e-12) * inverse_norm(goal, 0, 1e-12)
            total = total + (2 - 2 * cosine.squeeze(0)) / images
        return total


class _Gate(nn.Module):
    """A with parameters.

    Shapes:
        x: (B, C, h, w) -> the same.
    """

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        hidden = channels // reduction
        self.channels = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.positions = nn.Sequential(
            nn.Conv2d(2, 1, 7, padding=3, bias=False),
            nn.BatchNorm2d(1, momentum=0.01),
        )
        nn.init.kaiming_normal_(self.positions[0].weight)

    def forward(self, x: Tensor) -> Tensor:
        return gate(x, self.channels, self.positions)


def gate_freely(x: Tensor) -> Tensor:
    """A without parameters."""
    return gate(x, lambda vectors: vectors, lambda maps: maps.sum(1, keepdim=True))


def gate(x: Tensor, channels: Callable[[Tensor], Tensor], positions: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, C, h, w) -> the same, with what makes the scores of channels, (B, C), and of positions, (B, 2, h, w)."""
    # not amax, which would share the gradient among equal values
    mean, peak = x.mean((2, 3)), F.adaptive_max_pool2d(x, 1).flatten(1)
    x = x * torch.sigmoid(channels(mean) + channels(peak))[..., None, None]
    peak, mean = x.max(1, keepdim=True).values, x.mean(1, keepdim=True)
    return x * torch.sigmoid(positions(torch.cat([peak, mean], 1)))
