"""Token relations, the local loss of LightlyTrain's third distillation method (2026; no paper)."""

from typing import Literal

import torch
from torch import Tensor, nn

from ._pair import Pair
from ._relations import row_divergence, unit
from ._task import Prediction, Task, Temperature


class TokenRelation(nn.Module):
    """KL divergence between the similarities of each position to all positions of its image, itself among them.

        z = unit_c(map),    L = 1 / (B N) * sum_bm KL( softmax_n(z^t_m . z^t_n / T) || softmax_n(z^s_m . z^s_n / T) )

    Student is compared with student and teacher with teacher, so that only the grids must agree; a rotation of all
    the student's vectors changes nothing.

    Source: the behaviour of the package lightly-train 0.18, T = 0.07, weight 1 beside `token_queue`; no ablation and no
    segmentation number of it is published. Similarities are made a block of rows at a time and never kept: memory is
    linear in N, time is quadratic. A teacher with patches of 14 or 16 pixels keeps N small.

    Args:
        temperature: T, in units of cosine.
        projection: what the student's map passes first. `affine`: a 1x1 convolution to the teacher's channels, as
            there, trained with the student. `none`: nothing, whatever the two widths.

    Returns:
        scalar, mean over images and positions, in nats. The teacher gets no gradient, nor do student's vectors that
        are all equal.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        temperature: Temperature = 0.07,
        projection: Literal["affine", "none"] = "affine",
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.temperature = temperature
        self.projection = None
        if projection == "affine":
            self.projection = nn.Conv2d(self.pair.student_channels, self.pair.teacher_channels, 1)
            nn.init.trunc_normal_(self.projection.weight, std=0.02)
            nn.init.zeros_(self.projection.bias)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = self.pair.maps(student, teacher, self.projection)
        with torch.autocast(goal.device.type, enabled=False):
            guess, goal = (unit(x.flatten(2), 1).mT for x in (guess, goal.detach()))  # (B, N, C), (B, N, C')
            scaled = guess / self.temperature, goal / self.temperature
            images = zip(scaled[0], guess, scaled[1], goal, strict=True)
            return sum(row_divergence(*image) for image in images) / (len(goal) * goal.shape[1])
