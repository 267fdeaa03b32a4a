"""IFVD: Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020."""

import torch
from torch import Tensor, nn

from ._pair import Pair
from ._regions import LabelResize, class_centres, class_masks
from ._relations import unit
from ._task import Prediction, Task


class IFVD(nn.Module):
    """Mean squared difference of how similar each pixel is to the centre of its class in the same image.

        c_k = mean of f over the image's pixels of class k
        m_n = cos( f_n, c_{y_n} ),    L = mean_bn ( m^s - m^t )_n^2

    A pixel of no class is its own centre, so it adds 0 to the sum and 1 to the count.

    Source: eqs. 1 to 3 of the paper as in CIRKD (weight 20) and in RMRKD (weight 10), whose released code interpolates
    the labels as numbers (`label_resize: bilinear_trunc`) and maps a student of another width to the teacher's
    (`align: true`). Gradients flow through the centres too.

    Args:
        align: a 1x1 convolution with bias for the student's map where the widths differ; the loss needs none.

    Returns:
        scalar, mean over B*h'*w', no unit; 0 with zero gradient when every pixel is ignored.
    """

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        label_resize: LabelResize = "nearest",
        align: bool = False,
    ):
        super().__init__()
        self.num_classes, self.ignore_index = task.num_classes, task.ignore_index
        self.pair = Pair(task, feature, teacher_feature)
        self.label_resize = label_resize
        self.align = self.pair.alignment() if align else None

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = self.pair.maps(student, teacher, self.align)
        masks = class_masks(target, goal, self.num_classes, self.ignore_index, self.label_resize)  # (B, K, N)
        with torch.autocast(goal.device.type, enabled=False):
            difference = similarity(guess.flatten(2), masks) - similarity(goal.flatten(2), masks)  # (B, N)
        return difference.square().mean()


def similarity(features: Tensor, masks: Tensor) -> Tensor:
    """Cosine of each pixel and its class centre; 0, without gradient, for a pixel of no class.

    Shapes:
        features: (B, C, N), masks: (B, K, N) of 0 and 1 -> (B, N).
    """
    centres = unit(class_centres(features, masks), 2, eps=1e-8)  # (B, K, C)
    # against all centres and masked: K products a pixel, where painting the centres would take another map of C values
    return ((centres @ unit(features, 1, eps=1e-8)) * masks).sum(1)
