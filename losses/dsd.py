"""DSD: Feng et al., "Double Similarity Distillation for Semantic Image Segmentation", IEEE TIP 2021."""

from itertools import combinations
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from ._pair import Pair
from ._relations import attention_map, unit
from ._task import Prediction, Task, Temperature, Weight, resize


class DSD(nn.Module):
    """Pixel-wise and category-wise similarity distillation, PSD and CSD.

        a_i = unit_n( mean_c (f_i)_c^2 ),    r_ij = unit_n( a_j - a_i )
        PSD = mean over pairs of levels i < j of mean_bn ( r^s_ij - r^t_ij )^2
        q = softmax_n( pool(z) / T ),    CSD = mean_bkl ( q^s q^s^T - q^t q^t^T )_kl^2,    T = 4

    z is the last level, pool averages windows of 2x2 pixels.

    Source: the paper in CIRKD's form; weights 1000 and 10, without `kl` beside it. CIRKD reads three levels
    (`[aux, head, logits]`), and for students without an auxiliary head puts their logits in its place: the residual of
    two equal levels is 0 and its normalisation sends gradients of order 1e24 back, in which all others are lost.
    Two levels are the default here.

    Args:
        levels: two or more maps in order of depth, no two the same: names of features, `logits` and `aux`.
        teacher_levels: the teacher's, as many; the same names when left out.
        psd, csd: weights of the two parts.

    Returns:
        {psd, csd} of the parts left in, weighted scalars, no unit. All levels are resized to the teacher's last one.

    Raises:
        ValueError: not as many levels of the teacher, one twice, or last levels of different channels.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        levels: Annotated[tuple[str, ...], MinLen(2)] = ("head", "logits"),
        teacher_levels: tuple[str, ...] | None = None,
        psd: Weight = 1000.0,
        csd: Weight = 10.0,
        temperature: Temperature = 4.0,
    ):
        super().__init__()
        of_teacher = levels if teacher_levels is None else teacher_levels
        if len(of_teacher) != len(levels):
            raise ValueError(f"dsd: as many levels of the teacher as of the student, got {levels} and {of_teacher}")
        if len(set(levels)) < len(levels) or len(set(of_teacher)) < len(of_teacher):
            raise ValueError(f"dsd: two equal levels have no residual to compare, got {levels} and {of_teacher}")
        if psd == csd == 0:
            raise ValueError("dsd: psd and csd are both 0; give one of the two parts a weight")
        self.pairs = [Pair(task, *names) for names in zip(levels, of_teacher, strict=True)]
        last = self.pairs[-1]
        if last.student_channels != last.teacher_channels:
            raise ValueError(
                f"dsd: the last level has {last.student_channels} channels in the student and "
                f"{last.teacher_channels} in the teacher; take the same map, such as logits"
            )
        self.psd, self.csd = psd, csd
        self.temperature = temperature

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> dict[str, Tensor]:
        guesses, goals = zip(*(pair.maps(student, teacher) for pair in self.pairs), strict=True)
        return self.of_levels(guesses, goals, student.align_corners, teacher.align_corners)

    def of_levels(
        self, guesses: list[Tensor], goals: list[Tensor], student_corners: bool = False, teacher_corners: bool = False
    ) -> dict[str, Tensor]:
        """The weighted parts for lists of maps (B, C_i, h_i, w_i), the student's and the teacher's."""
        size = goals[-1].shape[-2:]
        guesses = [resize(x, size, student_corners) for x in guesses]
        goals = [resize(x, size, teacher_corners) for x in goals]
        parts = {}
        if self.psd:
            parts["psd"] = self.psd * F.mse_loss(residuals(guesses), residuals(goals))
        if self.csd:
            with torch.autocast(goals[-1].device.type, enabled=False):
                parts["csd"] = self.csd * F.mse_loss(self.categories(guesses[-1]), self.categories(goals[-1]))
        return parts

    def categories(self, logits: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, K, K), inner products of the classes' spatial distributions."""
        pooled = F.avg_pool2d(logits, 2, 2, ceil_mode=True).flatten(2)  # (B, K, n)
        share = F.softmax(pooled / self.temperature, 2)
        return share @ share.mT


def residuals(levels: list[Tensor]) -> Tensor:
    """Unit differences of the attention maps of every two levels, (pairs, B, N)."""
    maps = [unit(attention_map(x).flatten(1), 1) for x in levels]  # (B, N) each
    return torch.stack([unit(deeper - shallower, 1) for shallower, deeper in combinations(maps, 2)])
