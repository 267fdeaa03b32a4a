"""RMRKD: Zheng et al., "Region-aware mutual relational knowledge distillation ...", Pattern Recognition 161, 2025."""

from typing import Literal

import torch
from torch import Tensor, nn

from ._pair import Pair
from ._regions import LabelResize, class_masks, class_sums
from ._relations import divergence, inverse_norm
from ._task import Prediction, Task, Temperature


class CrossSimilarity(nn.Module):
    """Similarity of every pixel to the region centres of its own and of the other network, in and outside the region.

        c_k = sum_n m_kn f_n,    cos_k(c, f)_n = cosine of c_k and f_n    (f, c: student s, c^s or teacher t, c^t)
        L = T^2 / (4 B) * sum_b sum_k sum_{r in {m, 1 - m}} KL( r_k cos_k(c^s, s) <- r_k cos_k(c^s, t) )
                                                          + KL( r_k cos_k(c^t, s) <- r_k cos_k(c^t, t) )
        KL(a <- b) = sum over columns of KL( softmax_h(b / T) || softmax_h(a / T) )

    m_kn is 1 where pixel n has label k; ignored pixels are outside every region. Pixels a mask leaves out stay in the
    softmax with the value 0. A class the image does not have has no centre and adds 0. Where the channels differ, s has
    passed a learnt 1x1 convolution with bias.

    Source: distance_type `cross_sim` of the released code, weight 0.1 on stage 4 or 1 on stage 3, T = 0.1 (article
    111319; the paper was not at hand). The softmax over each column apart (`column`) and the interpolated labels
    (`bilinear_trunc`) look like slips of that code, but the weights were tuned with them; `spatial` and `nearest` are
    the better founded. The sums over classes and columns are kept for the same reason: the value grows with K and the
    map's width.

    Args:
        softmax_over: `column`: each column's pixels apart; `spatial`: all pixels of the map together.

    Returns:
        scalar in nats, mean over B; 0 with zero gradient when every pixel is ignored. The teacher gets no gradient.
    """

    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "stage4",
        teacher_feature: str | None = None,
        temperature: Temperature = 0.1,
        softmax_over: Literal["column", "spatial"] = "column",
        label_resize: LabelResize = "bilinear_trunc",
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.align = self.pair.alignment()
        self.num_classes, self.ignore_index = task.num_classes, task.ignore_index
        self.temperature = temperature
        self.softmax_over = softmax_over
        self.label_resize = label_resize

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        features, goal = self.pair.maps(student, teacher, self.align)
        goal = goal.detach()
        masks = class_masks(target, goal, self.num_classes, self.ignore_index, self.label_resize)  # (B, K, N)
        size = goal.shape[-2:]
        with torch.autocast(features.device.type, enabled=False):
            guess, aim = similarities(features.flatten(2), goal.flatten(2), masks)
            regions = torch.stack([masks, 1 - masks], 1)[:, :, None]  # (B, 2, 1, K, N)
            # in and outside the region x by the student's and by the teacher's centre: (B, 2, 2, K, h, w)
            guess, aim = ((regions * x[:, None] / self.temperature).unflatten(-1, size) for x in (guess, aim))
            if self.softmax_over == "spatial":
                guess, aim = guess.flatten(-2), aim.flatten(-2)
            else:
                guess, aim = guess.mT, aim.mT
            return self.temperature**2 / (4 * len(goal)) * divergence(guess, aim, -1).sum()


def similarities(student: Tensor, teacher: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of the student's and of the teacher's pixels with the region centres of both.

    No masked or normalised copy of a feature map is made: a cosine is a product with a unit centre, then scaled.

    Shapes:
        student, teacher: (B, C, N). masks: (B, K, N) of 0 and 1.
        returns: two (B, 2, K, N), [:, 0] by the student's centres and [:, 1] by the teacher's; the second has no graph.
    """
    # sums in place of means: a cosine does not see the difference
    centres = torch.cat([class_sums(pixels, masks) for pixels in (student, teacher)], 1)  # (B, 2 K, C)
    centres = centres * inverse_norm(centres, -1)
    guess = (centres @ student) * inverse_norm(student, 1)  # (B, 2 K, N)
    with torch.no_grad():
        aim = (centres @ teacher) * inverse_norm(teacher, 1)
    return guess.unflatten(1, (2, -1)), aim.unflatten(1, (2, -1))
