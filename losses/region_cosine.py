"""Cosine form of RMRKD: Zheng et al., "Region-aware mutual relational knowledge distillation ...", 2025."""

import torch
from torch import Tensor, nn

from ._pair import Pair
from ._regions import LabelResize, class_centres, class_masks
from ._relations import divergence, inverse_norm, unit
from ._task import Prediction, Task, at_least_float32


class RegionCosine(nn.Module):
    """Class centres of student and teacher made alike, and each pixel's similarities to its network's own centres.

        f = E(s) or E(t), of unit length,    c_k = sum_n m_kn f_n / (sum_n m_kn + 1e-6)
        a_kn = cosine of c_k and f_n,    z_kn = a_kn / sum_j a_jn
        L = 1 - 1 / (B K) * sum_bk cos(c_bk^s, c_bk^t)
              + 1 / (B N) * sum_n KL( softmax_bk(z_bkn^t) || softmax_bk(z_bkn^s) )

    m_kn is 1 where pixel n has label k. E, shared by both networks and trained with the student, is a 1x1 convolution,
    batch norm, ReLU and another 1x1 (all with the teacher's channels), then a division by the length.
    A class an image does not have counts with cosine 0. The softmax runs over the B*K centres of the batch jointly.

    Source: distance_type `cosine` of the released code (weights 0.5 to 1; it has a temperature, which cancels). That
    code needs equal channels; here a 1x1 convolution with bias comes before E where they differ, as in its other forms.
    sum_j a_jn can come near 0, where z is large; below 1e-8 it is held there.

    Returns:
        scalar, cosines and nats; 0 with zero gradient when every pixel is ignored (released: NaN). The teacher gets no
        gradient, but E learns from its map too.
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
        channels = self.pair.teacher_channels
        self.embed = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        features, goal = self.pair.maps(student, teacher, self.align)
        goal = goal.detach()
        masks = class_masks(target, goal, self.num_classes, self.ignore_index, self.label_resize)  # (B, K, N)
        embedded = [at_least_float32(self.embed(x)).flatten(2) for x in (features, goal)]  # (B, C', N)
        with torch.autocast(features.device.type, enabled=False):
            (centres, guess), (goal_centres, aim) = (shares(x, masks) for x in embedded)
            likeness = (centres * goal_centres).sum(-1)  # (B, K)
            kl = divergence(guess.flatten(0, 1), aim.flatten(0, 1), 0).sum() / masks[:, 0].numel()
            return (1 - likeness.mean() + kl) * masks.amax()


def shares(features: Tensor, masks: Tensor, eps: float = 1e-8) -> tuple[Tensor, Tensor]:
    """Unit class centres (B, K, C), and z (B, K, N) above, of the features (B, C, N) with masks (B, K, N)."""
    pixels = unit(features, 1)
    centres = class_centres(pixels, masks)
    centres = centres * inverse_norm(centres, -1)
    cosines = centres @ pixels  # (B, K, N)
    total = cosines.sum(1, keepdim=True)
    return centres, cosines / total.where(total.abs() > eps, eps)
