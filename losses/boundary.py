"""The loss of PIDNet's boundary head: balanced binary cross entropy against the borders of the classes."""

import torch.nn.functional as F
from torch import Tensor, nn

from ._edges import EdgeRule, edges_of
from ._task import Count, Prediction, Task, at_least_float32, resize


class Boundary(nn.Module):
    """Binary cross entropy in which pixels on borders and others count the same in all.

        L = mean_n w_n bce(sigmoid(z_n), e_n),    w_n = share of the pixels with e = 1 - e_n

    e_n is 1 on borders, z is resized to the label, the mean and the shares are over the whole batch, ignored pixels
    included; the gradient of w is none.

    Source: Xu et al., PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers, CVPR 2023,
    arXiv 2206.02066, in the released code's form, whose weight is 20. It finds borders with OpenCV's Canny in the whole
    image before that is scaled and cropped; mmsegmentation and this one find them in the crop.

    Args:
        feature: scores of borders, one channel, such as those of a head for training alone.
        edges: how borders are found, see losses/_edges.py. width: pixels across a border.

    Returns:
        scalar in nats; 0 where there is no border, or nothing else. The teacher is not used.

    Raises:
        ValueError: a feature of several channels.
    """

    def __init__(self, task: Task, *, feature: str = "boundary", edges: EdgeRule = "neighbours", width: Count = 4):
        super().__init__()
        channels = task.student.use(feature)
        if channels != 1:
            raise ValueError(f"boundary: {feature} has {channels} channels; a map of borders has one")
        self.feature, self.ignore_index = feature, task.ignore_index
        self.edges, self.width = edges, width

    def forward(self, student: Prediction, teacher: Prediction | None, target: Tensor) -> Tensor:
        scores = at_least_float32(student.features[self.feature])
        scores = resize(scores, target.shape[-2:], student.align_corners)  # (B, 1, H, W)
        return balanced_bce(scores, edges_of(target, self.ignore_index, self.edges, self.width))


def balanced_bce(scores: Tensor, edges: Tensor) -> Tensor:
    """The loss of scores (B, 1, H, W) for edges (B, H, W) of 0 and 1, a scalar."""
    edges = edges[:, None].to(scores.dtype)
    share = edges.mean()
    return F.binary_cross_entropy_with_logits(scores, edges, edges * (1 - share) + (1 - edges) * share)
