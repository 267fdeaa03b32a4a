"""ICKD: Liu et al., "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation", ICCV 2021."""

import torch
from torch import Tensor, nn

from ._pair import Pair
from ._relations import row_gram, unit
from ._task import Prediction, Task


class ICKD(nn.Module):
    """Channels that go together in the teacher's map go together in the student's.

        G = F F^T, F: (C, N) per image,   L = 1/(B C) sum_bij ( g^S_ij - g^T_ij )^2,   g_i = G_i / ||G_i||_2

    Source: the authors' released code (weight 2.5), where the student's feature passes a learnt 1x1 convolution and
    batch norm to the teacher's channels; and AICSD's code, which takes the K raw logits for channels, without any map
    between. The paper's own reduction differs and was not at hand.

    Args:
        feature: name of the student's feature; None compares the logits.

    Returns:
        scalar without unit, 0 to 4. The student's feature is resized behind the learnt part.
    """

    label_free = True

    def __init__(self, task: Task, *, feature: str | None = "stage4", teacher_feature: str | None = None):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        widths = self.pair.student_channels, self.pair.teacher_channels
        self.embed = None
        if self.pair.student == "logits" and widths[0] != widths[1]:
            raise ValueError(
                f"ickd: scores of {widths[0]} classes have no correlations like those of {widths[1]} channels"
            )
        if self.pair.student != "logits":
            self.embed = nn.Sequential(nn.Conv2d(*widths, 1, bias=False), nn.BatchNorm2d(widths[1]))

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = (correlations(x) for x in self.pair.maps(student, teacher, self.embed))
        return (guess - goal).square().sum((1, 2)).mean() / goal.shape[1]


def correlations(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, C): inner products of the channels, every row of unit length."""
    with torch.autocast(x.device.type, enabled=False):
        return unit(row_gram(x.flatten(2)), 2)
