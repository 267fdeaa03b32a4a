"""DSD: Feng et al., "Double Similarity Distillation for Semantic Image Segmentation", IEEE TIP 2021."""

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._pair import Pair
from ._relations import attention_map, unit
from ._task import Prediction, Task, resize


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
        task: sizes of this run; needs a teacher.
        levels: two or more maps in order of depth, no two the same: names of features, `logits` and `aux`.
        teacher_levels: the teacher's, as many; the same names when left out.
        psd, csd: weights of the two parts; 0 leaves a part out.
        temperature: T > 0, in units of the last level.

    Shapes:
        maps: (B, C_i, h_i, w_i); each is resized bilinearly to the teacher's last level, whose channels both networks
        must share. target: not used. returns: {psd, csd} of the parts left in, weighted scalars, no unit.

    Raises:
        ValueError: fewer than two levels, one twice, temperature <= 0, both weights 0 or one negative, no teacher, a
            feature that a network does not have, or last levels of different channels.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        levels: tuple[str, ...] = ("head", "logits"),
        teacher_levels: tuple[str, ...] | None = None,
        psd: float = 1000.0,
        csd: float = 10.0,
        temperature: float = 4.0,
    ):
        super().__init__()
        of_teacher = levels if teacher_levels is None else teacher_levels
        if len(levels) < 2 or len(of_teacher) != len(levels):
            raise ValueError(f"dsd: two or more levels and as many of the teacher, got {levels} and {of_teacher}")
        if len(set(levels)) < len(levels) or len(set(of_teacher)) < len(of_teacher):
            raise ValueError(f"dsd: two equal levels have no residual to compare, got {levels} and {of_teacher}")
        if temperature <= 0:
            raise ValueError(f"dsd: temperature must be above 0, got {temperature}")
        if min(psd, csd) < 0 or psd == csd == 0:
            raise ValueError(f"dsd: psd and csd must not be negative, nor both 0; got {psd} and {csd}")
        self.pairs = [Pair(task, "dsd", *names) for names in zip(levels, of_teacher, strict=True)]
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
