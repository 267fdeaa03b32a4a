"""SP: Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._pair import Pair
from ._relations import unit
from ._task import Prediction, Task


class SP(nn.Module):
    """Images of a batch that are alike to the teacher are alike to the student.

        G = Q Q^T, Q: (B, C*h*w),   L = 1/B^2 sum_ij ( g^S_ij - g^T_ij )^2,   g_i = G_i / ||G_i||_2

    Source: eqs. 2 to 4 of the paper (weight 3000 there) and a side branch of AICSD's code, which agree. B is the batch
    of one process; with a single image the loss is 0. For several layers, list the term once for each.

    Returns:
        scalar without unit, at most 4 / B. Only (B, B) matrices are compared, so nothing is resized.
    """

    label_free = True

    def __init__(self, task: Task, *, feature: str = "stage4", teacher_feature: str | None = None):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        return F.mse_loss(*(similarities(x) for x in self.pair.read(student, teacher)))


def similarities(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, B): inner products of the images, every row of unit length."""
    with torch.autocast(features.device.type, enabled=False):
        rows = features.flatten(1)  # (B, C*h*w)
        return unit(rows @ rows.mT, 1)
