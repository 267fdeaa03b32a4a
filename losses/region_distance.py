"""Inter-class distance: Zhang et al., "Distilling Inter-Class Distance for Semantic Segmentation", IJCAI 2022."""

import torch
from torch import Tensor, nn

from ._pair import Pair
from ._regions import LabelResize, class_centres, labels_at, one_hot
from ._task import Prediction, Task


class RegionDistance(nn.Module):
    """Squared difference of the distances between the class centres of student and teacher.

        c_k = sum_n m_kn f_n / (sum_n m_kn + 1e-6),    d_ij = || c_i - c_j + 1e-6 ||_2
        L = 1 / (2 B) * sum_b sum_{i < j} (d_ij^t - d_ij^s)^2

    m_kn is 1 where pixel n of image b has label k. A class the image does not have takes part with the centre 0.

    Source: arXiv 2205.03650 (its inter-class distance part) as released with RMRKD, distance_type `euclidean`: the
    1e-6 is added to every component, and labels are interpolated (see labels_at, `nearest` is better founded).

    Args:
        task: sizes of this run; gives both features' channels.
        feature: name of the student's feature. teacher_feature: of the teacher's; the same name when left out.
        label_resize: how labels come to the map's size, see labels_at.

    Shapes:
        student.features[feature]: (B, C, h, w), through a learnt 1x1 convolution with bias where C differs from the
        teacher's; teacher.features[teacher_feature]: (B, C', h', w'). A student map of another size is resized
        bilinearly. target: (B, H, W) int64.
        returns: scalar, sum over pairs and mean over B, in squared feature units. The teacher gets no gradient.

    Raises:
        ValueError: no teacher, or a feature that a network does not have.
    """

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "stage4",
        teacher_feature: str | None = None,
        label_resize: LabelResize = "bilinear_trunc",
    ):
        super().__init__()
        self.pair = Pair(task, "region_distance", feature, teacher_feature)
        self.align = self.pair.alignment()
        self.num_classes, self.ignore_index = task.num_classes, task.ignore_index
        self.label_resize = label_resize

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        features, goal = self.pair.maps(student, teacher, self.align)
        goal = goal.detach()
        labels = labels_at(target, goal.shape[-2:], self.label_resize)
        labels = labels.masked_fill(labels == self.ignore_index, -1)
        with torch.autocast(features.device.type, enabled=False):
            masks = one_hot(labels, self.num_classes, features.dtype)  # (B, K, N)
            guess, aim = (distances(class_centres(x.flatten(2), masks)) for x in (features, goal))
            return (aim - guess).triu(1).square().sum() / (2 * len(labels))


def distances(centres: Tensor, eps: float = 1e-6) -> Tensor:
    """(B, K, C) -> (B, K, K): [i, j] is || c_i - c_j + eps ||_2."""
    # differences, not Gram matrices: two near centres far from the origin would cancel
    return torch.cdist(centres + eps, centres, compute_mode="donot_use_mm_for_euclid_dist")
