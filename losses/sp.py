"""SP: Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._relations import unit
from ._task import Prediction, Task, at_least_float32


class SP(nn.Module):
    """Images of a batch that are alike to the teacher are alike to the student.

        G = Q Q^T, Q: (B, C*h*w),   L = 1/B^2 sum_ij ( g^S_ij - g^T_ij )^2,   g_i = G_i / ||G_i||_2

    Source: eqs. 2 to 4 of the paper (weight 3000 there) and a side branch of AICSD's code, which agree. B is the batch
    of one process; with a single image the loss is 0. For several layers, list the term once for each.

    Args:
        task: sizes of this run; needs a teacher.
        feature: name of the student's feature.
        teacher_feature: name of the teacher's feature; the same name when left out.

    Shapes:
        student.features[feature]: (B, C, h, w), teacher.features[teacher_feature]: (B, C', h', w'), of any sizes: only
        (B, B) matrices are compared, so nothing is resized. target: not used.
        returns: scalar without unit, at most 4 / B.

    Raises:
        ValueError: no teacher, or a feature that a network does not have (the error lists those it has).
    """

    label_free = True

    def __init__(self, task: Task, *, feature: str = "stage4", teacher_feature: str | None = None):
        super().__init__()
        if task.teacher is None:
            raise ValueError("sp: a teacher is needed; name the network to learn from in the term's `from`")
        self.feature = feature
        self.teacher_feature = teacher_feature or feature
        task.student.use(self.feature)
        task.teacher.use(self.teacher_feature)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        features = student.features[self.feature], teacher.features[self.teacher_feature]
        return F.mse_loss(*(similarities(feature) for feature in features))


def similarities(feature: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, B): inner products of the images, every row of unit length."""
    with torch.autocast(feature.device.type, enabled=False):
        rows = at_least_float32(feature).flatten(1)  # (B, C*h*w)
        return unit(rows @ rows.mT, 1)
