"""The feature term of TSIC: Li et al., "The Teacher-Student Interactive Cycle", IEEE TCSVT 2026."""

import torch.nn.functional as F
from torch import Tensor, nn

from ._pair import Pair
from ._task import Prediction, Task, resize


class ChannelMean(nn.Module):
    """Mean squared error between the two features' averages over channels: one map each, whatever their widths.

        L = mean_bn ( mean_c s_bcn - mean_c t_bcn )^2

    Source: the released code's MSE between the student's stage4 and SAM's last neck map (weight 1 with LoRA); the
    paper's equations were not at hand. Nothing is detached there: a term with `detach: false` says so. A map that ends
    in a layer norm over channels has nearly the same mean everywhere, so that there is little in it to learn.

    Returns:
        scalar in squared feature units. The teacher's mean is resized to the student's, not the other way round.
    """

    label_free = True

    def __init__(self, task: Task, *, feature: str = "stage4", teacher_feature: str | None = None):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        # the mean commutes with the resize, which then handles one channel instead of hundreds
        guess, goal = (
            x.mean(1, keepdim=True) for x in self.pair.read(student, teacher)
        )  # (B, 1, h, w), (B, 1, h', w')
        return F.mse_loss(guess, resize(goal, guess.shape[-2:], teacher.align_corners))
