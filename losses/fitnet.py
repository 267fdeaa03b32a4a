"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ._pair import Pair
from ._task import Prediction, Task


class FitNet(nn.Module):
    """Mean squared error between the teacher's feature and a learnt linear map of the student's.

        L = mean_bcn ( (W s)_bcn - t_bcn )^2

    Source: the hint loss, eq. 3 of the paper, in the form CIRKD compares with: W is a 1x1 convolution without bias,
    trained with the student (weight 10 there), and always present, with equal widths too. The paper's regressor ends
    in a non-linearity, sums over the map, halves it, and is a training stage of its own before distillation. TriKD's
    low-level term is the same with a bias (projection `affine`, stage1, weight 0.5 or 0.9, arXiv 2309.12557).

    Args:
        projection: W: `linear`, as above; `affine`, with a bias; `none`, for equal widths, else a ValueError.

    Returns:
        scalar, mean over B*C'*h'*w', in squared feature units.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        projection: Literal["linear", "affine", "none"] = "linear",
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        widths = self.pair.student_channels, self.pair.teacher_channels
        if projection == "none" and widths[0] != widths[1]:
            raise ValueError(f"fitnet: projection none needs equal widths, got {widths[0]} and {widths[1]} channels")
        self.projection = nn.Identity() if projection == "none" else nn.Conv2d(*widths, 1, bias=projection == "affine")

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        return F.mse_loss(*self.pair.maps(student, teacher, self.projection))
