"""SKD: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019, arXiv 1903.04197."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from ._pair import Pair
from ._relations import gram_distance, unit
from ._task import Count, Prediction, Task


class SKD(nn.Module):
    """Pair-wise term of SKD: mean squared difference of the similarities between the nodes of an image.

        f^ = f / ||f||_c,    A = f^T f^,    L = 1 / (B n^2) * sum_bij ( A^s - A^t )_bij^2

    over the n nodes that max pooling leaves.

    Source: eqs. 3 and 4 of the paper. CIRKD's released code (weight 10) pools windows of 2x2 pixels, which leaves
    thousands of nodes; the first code and AICSD's pool by a share of the map, which leaves 2x2 or 3x3 nodes, and keep
    the norm out of the gradient (`share: 0.5, norm: detached`). The other terms of SKD are `kl` and `holistic`.

    Args:
        window: side of the pooled windows in pixels of the map; the stride is the same, the last ones may be smaller.
        share: in place of window, the windows' sides as a share of the map's (cut to whole pixels), above 0 up to 1.
        norm: `unit`: f / max(||f||, 1e-12). `detached`: f / (||f|| + 1e-8), the norm being a constant.

    Returns:
        scalar, mean over B*n*n, no unit.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        window: Count = 2,
        share: Annotated[float, Interval(gt=0, le=1)] | None = None,
        norm: Literal["unit", "detached"] = "unit",
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.window, self.share = window, share
        self.norm = norm

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = self.pair.maps(student, teacher)
        with torch.autocast(goal.device.type, enabled=False):
            guess, goal = self.nodes(guess), self.nodes(goal)
            return gram_distance(guess, goal) / (len(goal) * goal.shape[-1] ** 2)

    def nodes(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, n), the pooled positions, of unit length over channels."""
        sides = (self.window, self.window)
        if self.share is not None:
            sides = tuple(max(1, int(side * self.share)) for side in features.shape[-2:])
        pooled = F.max_pool2d(features, sides, sides, ceil_mode=True).flatten(2)  # (B, C, n)
        if self.norm == "unit":
            return unit(pooled, 1)
        return pooled / (pooled.detach().norm(dim=1, keepdim=True) + 1e-8)
