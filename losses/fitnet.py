"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ._task import Prediction, Task, at_least_float32, resize


class FitNet(nn.Module):
    """Mean squared error between the teacher's feature and a learnt linear map of the student's.

        L = mean_bcn ( (W s)_bcn - t_bcn )^2

    Source: the hint loss, eq. 3 of the paper, in the form CIRKD compares with: W is a 1x1 convolution without bias,
    trained with the student (weight 10 there), and always present, with equal widths too. The paper's regressor ends
    in a non-linearity, sums over the map, halves it, and is a training stage of its own before distillation. TriKD's
    low-level term is the same with a bias (projection `affine`, stage1, weight 0.5 or 0.9, arXiv 2309.12557).

    Args:
        task: sizes of this run; gives both features' channels.
        feature: name of the student's feature; `head` is what the classifier reads.
        teacher_feature: name of the teacher's feature; the same name when left out.
        projection: W: `linear`, as above; `affine`, with a bias; `none`, for features of equal widths.

    Shapes:
        student.features[feature]: (B, C, h, w); teacher.features[teacher_feature]: (B, C', h', w').
        target: not used. returns: scalar, mean over B*C'*h'*w', in squared feature units. A student map of another
        size is resized bilinearly to the teacher's.

    Raises:
        ValueError: no teacher, a feature that a network does not have (the error lists those it has), or different
            widths with projection `none`.
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
        if task.teacher is None:
            raise ValueError("fitnet: a teacher is needed; name the network to learn from in the term's `from`")
        self.feature = feature
        self.teacher_feature = teacher_feature or feature
        widths = task.student.use(self.feature), task.teacher.use(self.teacher_feature)
        if projection == "none" and widths[0] != widths[1]:
            raise ValueError(f"fitnet: projection none needs equal widths, got {widths[0]} and {widths[1]} channels")
        self.projection = nn.Identity() if projection == "none" else nn.Conv2d(*widths, 1, bias=projection == "affine")

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        goal = at_least_float32(teacher.features[self.teacher_feature])  # (B, C', h', w')
        # a 1x1 convolution commutes with the resize (whose weights sum to 1), so it runs at the student's size
        guess = at_least_float32(self.projection(student.features[self.feature]))  # (B, C', h, w)
        return F.mse_loss(resize(guess, goal.shape[-2:], student.align_corners), goal)
