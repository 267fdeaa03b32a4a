"""The feature term of TSIC: Li et al., "The Teacher-Student Interactive Cycle", IEEE TCSVT 2026."""

import torch.nn.functional as F
from torch import Tensor, nn

from ._task import Prediction, Task, at_least_float32, resize


class ChannelMean(nn.Module):
    """Mean squared error between the two features' averages over channels: one map each, whatever their widths.

        L = mean_bn ( mean_c s_bcn - mean_c t_bcn )^2

    Source: the released code's MSE between the student's stage4 and SAM's last neck map (weight 1 with LoRA); the
    paper's equations were not at hand. Nothing is detached there: a term with `detach: false` says so. A map that ends
    in a layer norm over channels has nearly the same mean everywhere, so that there is little in it to learn.

    Args:
        task: sizes of this run; needs a teacher.
        feature: name of the student's feature.
        teacher_feature: name of the teacher's feature; the same name when left out.

    Shapes:
        student.features[feature]: (B, C, h, w); teacher.features[teacher_feature]: (B, C', h', w'), whose mean is
        resized bilinearly to the student's size. target: not used. returns: scalar in squared feature units.

    Raises:
        ValueError: no teacher, or a feature that a network does not have (the error lists those it has).
    """

    label_free = True

    def __init__(self, task: Task, *, feature: str = "stage4", teacher_feature: str | None = None):
        super().__init__()
        if task.teacher is None:
            raise ValueError("channel_mean: a teacher is needed; name the network to learn from in the term's `from`")
        self.feature = feature
        self.teacher_feature = teacher_feature or feature
        task.student.use(self.feature)
        task.teacher.use(self.teacher_feature)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        found = at_least_float32(student.features[self.feature]).mean(1, keepdim=True)  # (B, 1, h, w)
        # the mean commutes with the resize, which then handles one channel instead of hundreds
        goal = at_least_float32(teacher.features[self.teacher_feature]).mean(1, keepdim=True)  # (B, 1, h', w')
        return F.mse_loss(found, resize(goal, found.shape[-2:], teacher.align_corners))
