"""The loss of STDC's detail head: binary cross entropy and dice against a Laplacian of the labels."""

import torch.nn.functional as F
from torch import Tensor, nn

from ._edges import details_of
from ._task import Prediction, Task, Weight, at_least_float32, resize

SMOOTH = 1.0  # of the dice of one channel; mmsegmentation's of two has 1e-3 beside each sum
EPSILON = 1e-3


class Detail(nn.Module):
    """Binary cross entropy and dice between the scores of details and where a Laplacian of the labels is positive.

        bce = mean_n bce(sigmoid(z_n), d_n)
        dice = mean_b 1 - (2 sum s d + 1) / (sum s + sum d + 1),    s = sigmoid(z), sums over image b

    Source: Fan et al., Rethinking BiSeNet For Real-time Semantic Segmentation, CVPR 2021, arXiv 2104.13188, both of
    weight 1; d as the released code has it, see losses/_edges.py:details_of. mmsegmentation's head has two channels, no
    detail and detail, whose dice is 1 - 2 sum s d / (sum s^2 + sum d^2 + 2e-3) over both of them.

    Args:
        feature: scores of details, of one channel or, as in mmsegmentation, of two.
        bce, dice: weights of the two parts.

    Returns:
        {bce, dice} of the parts left in, weighted scalars. z is resized to the label. As in the released code, ignored
        pixels count as those of one more class: their border is a detail. The teacher is not used.

    Raises:
        ValueError: a feature of more than two channels.
    """

    def __init__(self, task: Task, *, feature: str = "detail", bce: Weight = 1.0, dice: Weight = 1.0):
        super().__init__()
        channels = task.student.use(feature)
        if channels > 2:
            raise ValueError(f"detail: {feature} has {channels} channels; a map of details has one or two")
        if bce == dice == 0:
            raise ValueError("detail: bce and dice are both 0; give one of the two parts a weight")
        self.feature, self.bce, self.dice = feature, bce, dice

    def forward(self, student: Prediction, teacher: Prediction | None, target: Tensor) -> dict[str, Tensor]:
        scores = at_least_float32(student.features[self.feature])
        scores = resize(scores, target.shape[-2:], student.align_corners)  # (B, 1 or 2, H, W)
        details = details_of(target)[:, None].to(scores.dtype)
        if scores.shape[1] == 2:
            details = F.pad(1 - details, (0, 0, 0, 0, 0, 1)) + F.pad(details, (0, 0, 0, 0, 1, 0))  # (B, 2, H, W)
        parts = {}
        if self.bce:
            parts["bce"] = self.bce * F.binary_cross_entropy_with_logits(scores, details)
        if self.dice:
            parts["dice"] = self.dice * dice_distance(scores, details)
        return parts


def dice_distance(scores: Tensor, details: Tensor) -> Tensor:
    """1 - dice per image, averaged; both (B, 1 or 2, H, W)."""
    found, wanted = scores.sigmoid().flatten(1), details.flatten(1)
    common = 2 * (found * wanted).sum(1)  # (B,)
    if scores.shape[1] == 2:
        return (1 - common / (found.square().sum(1) + wanted.square().sum(1) + 2 * EPSILON)).mean()
    return (1 - (common + SMOOTH) / (found.sum(1) + wanted.sum(1) + SMOOTH)).mean()
