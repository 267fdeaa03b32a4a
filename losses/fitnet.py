"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550."""

import torch.nn.functional as F
from torch import Tensor, nn

from ._task import Prediction, Task, at_least_float32, resize


class FitNet(nn.Module):
    """Mean squared error between the teacher's feature and a learnt linear map of the student's.

        L = mean_bcn ( (W s)_bcn - t_bcn )^2

    Source: the hint loss, eq. 3 of the paper, in the form CIRKD compares with: W is a 1x1 convolution without bias,
    trained with the student (weight 10 there), and always present, with equal widths too. The paper's regressor ends
    in a non-linearity, sums over the map, halves it, and is a training stage of its own before distillation.

    Args:
        task: sizes of this run; gives both features' channels.
        feature: name of the student's feature; `head` is what the classifier reads.
        teacher_feature: name of the teacher's feature; the same name when left out.

    Shapes:
        student.features[feature]: (B, C, h, w); teacher.features[teacher_feature]: (B, C', h', w').
        target: not used. returns: scalar, mean over B*C'*h'*w', in squared feature units. A student map of another
        size is resized bilinearly to the teacher's.

    Raises:
        ValueError: no teacher, or a feature that a network does not have (the error lists those it has).
    """

    def __init__(self, task: Task, *, feature: str = "head", teacher_feature: str | None = None):
        super().__init__()
        if task.teacher is None:
            raise ValueError("fitnet: a teacher is needed; name the network to learn from in the term's `from`")
        self.feature = feature
        self.teacher_feature = teacher_feature or feature
        self.projection = nn.Conv2d(
            task.student.channels_of(self.feature), task.teacher.channels_of(self.teacher_feature), 1, bias=False
        )

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        goal = at_least_float32(teacher.features[self.teacher_feature])  # (B, C', h', w')
        # a bias-free 1x1 convolution commutes with the resize, so it runs at the student's, usually smaller, size
        guess = at_least_float32(self.projection(student.features[self.feature]))  # (B, C', h, w)
        return F.mse_loss(resize(guess, goal.shape[-2:], student.align_corners), goal)
