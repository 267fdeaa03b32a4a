"""Inter-class distance: Zhang et al., "Distilling Inter-Class Distance for Semantic Segmentation", IJCAI 2022."""

import torch
from torch import Tensor, nn

from ._pair import Pair
from ._regions import LabelResize, class_centres, class_masks
from ._task import Prediction, Task


class RegionDistance(nn.Module):
    """Squared difference of the distances between the class centres of student and teacher.

        c_k = sum_n m_kn f_n / (sum_n m_kn + 1e-6),    d_ij = || c_i - c_j + 1e-6 ||_2
        L = 1 / (2 B) * sum_b sum_{i < j} (d_ij^t - d_ij^s)^2

    m_kn is 1 where pixel n of image b has label k. A class the image does not have takes part with the centre 0. Where
    the channels differ, the student's features have passed a learnt 1x1 convolution with bias.

    Source: arXiv 2205.03650 (its inter-class distance part) as released with RMRKD, distance_type `euclidean`: the
    1e-6 is added to every component, and labels are interpolated (see labels_at, `nearest` is better founded).

    Returns:
        scalar, sum over pairs and mean over B, in squared feature units; 0 with zero gradient when every pixel is
        ignored. The teacher gets no gradient.
    """

    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "stage4",
        teacher_feature: str | None = None,
        label_resize: LabelResize = "bilinear_trunc",
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.align = self.pair.alignment()
        self.num_classes, self.ignore_index = task.num_classes, task.ignore_index
        self.label_resize = label_resize

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        features, goal = self.pair.maps(student, teacher, self.align)
        goal = goal.detach()
        masks = class_masks(target, goal, self.num_classes, self.ignore_index, self.label_resize)  # (B, K, N)
        with torch.autocast(features.device.type, enabled=False):
            guess, aim = (distances(class_centres(x.flatten(2), masks)) for x in (features, goal))
            return (aim - guess).triu(1).square().sum() / (2 * len(goal))


def distances(centres: Tensor, eps: float = 1e-6) -> Tensor:
    """(B, K, C) -> (B, K, K): [i, j] is || c_i - c_j + eps ||_2."""
    # differences, not Gram matrices: two near centres far from the origin would cancel
    return torch.cdist(centres + eps, centres, compute_mode="donot_use_mm_for_euclid_dist")
