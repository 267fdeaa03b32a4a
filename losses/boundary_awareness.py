"""PIDNet's boundary-awareness loss: cross entropy of the scores where its boundary head is sure of a border."""

from typing import Annotated

from annotated_types import Interval
from torch import Tensor, nn

from ._class_weights import ClassWeights
from ._task import Prediction, Share, Task, at_least_float32, resize
from .cross_entropy import CrossEntropy


class BoundaryAwareness(nn.Module):
    """Mined cross entropy over the pixels where the boundary head gives more than a probability.

        L = CE(z, y'),    y'_n = y_n where sigmoid(b_n) > boundary_probability, else ignored

    CE keeps the hard pixels of the rule `strict` and divides by their number, see losses/cross_entropy.py; b is resized
    to the label and gets no gradient.

    Source: Xu et al., PIDNet, CVPR 2023, arXiv 2206.02066, in the released code's form, whose weight is 1. Where no pixel
    is left the original stops with an error and mmsegmentation has 0.

    Args:
        feature: scores of borders, one channel.
        boundary_probability: above it a pixel counts.
        class_weights, ohem_min_kept, ohem_threshold: see losses/cross_entropy.py; None: nothing is mined.

    Returns:
        scalar in nats, 0 where no pixel is left. The teacher is not used.

    Raises:
        ValueError: a feature of several channels, or class weights that are not one for each class.
    """

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "boundary",
        boundary_probability: Share = 0.8,
        class_weights: ClassWeights = None,
        ohem_min_kept: Annotated[int, Interval(ge=0, le=10**9)] | None = None,
        ohem_threshold: Share = 0.9,
    ):
        super().__init__()
        channels = task.student.use(feature)
        if channels != 1:
            raise ValueError(f"boundary_awareness: {feature} has {channels} channels; a map of borders has one")
        self.feature, self.boundary_probability = feature, boundary_probability
        self.ignore_index = task.ignore_index
        mining = {"ohem_min_kept": ohem_min_kept, "ohem_threshold": ohem_threshold, "ohem_rule": "strict"}
        if ohem_min_kept is None and ohem_threshold == 0.9:
            mining = {}
        self.cross_entropy = CrossEntropy(task, scores="logits", class_weights=class_weights, divisor="count", **mining)

    @property
    def class_weights(self) -> Tensor | None:
        """(K,), those of the cross entropy inside."""
        return self.cross_entropy.class_weights

    def forward(self, student: Prediction, teacher: Prediction | None, target: Tensor) -> Tensor:
        borders = at_least_float32(student.features[self.feature].detach())
        borders = resize(borders, target.shape[-2:], student.align_corners)[:, 0].sigmoid()  # (B, H, W)
        near = target.where(borders > self.boundary_probability, self.ignore_index)
        return self.cross_entropy(student, None, near)
