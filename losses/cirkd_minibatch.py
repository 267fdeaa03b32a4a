"""CIRKD, mini-batch term: Yang et al., "Cross-Image Relational Knowledge Distillation", CVPR 2022, arXiv 2204.06986."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._memory import among_images
from ._pair import Pair
from ._relations import unit
from ._task import Count, Prediction, Task, Temperature


class CIRKDMinibatch(nn.Module):
    """KL divergence between the similarities of each pixel to all pixels of each image of the batch.

        f = unit_c( pool(map) ),    S_ij = f_i f_j^T / T    (N x N)
        L = 1 / B^2 * sum_ij 1 / N * sum_rows KL( softmax(S^t_ij) || softmax(S^s_ij) )

    over all ordered pairs of images (i, j), i = j among them.

    Source: mini-batch based pixel-to-pixel distillation of the paper, weight 1; there is no factor T^2. The second
    release averages windows of 4x4 pixels first, in maps of at least 256x256 (`pool`, `pool_from`); the first did not.
    Similarities are made a block of rows at a time and never kept: memory is linear in N.

    Args:
        pool: side of the averaged windows in pixels of the map, 1 for none; the last ones may be smaller.
        pool_from: (height, width) a map must reach, both, to be pooled.
        gather: in training, compare with the images of all processes; the gradient runs through this process's own.
            The released codes see a process's images only, which with one image per process leaves nothing across
            images.

    Returns:
        scalar, mean over pairs and rows, in nats. The teacher gets no gradient.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        temperature: Temperature = 0.1,
        pool: Count = 4,
        pool_from: tuple[Count, Count] = (256, 256),
        gather: bool = False,
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.temperature = temperature
        self.pool, self.pool_from = pool, pool_from
        self.gather = gather

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = self.pair.maps(student, teacher)
        with torch.autocast(goal.device.type, enabled=False):
            guess, goal = self.pixels(guess), self.pixels(goal)
            return among_images(guess, goal, self.temperature, gathers=self.gather, training=self.training)

    def pixels(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, N, C) of unit length."""
        height, width = features.shape[-2:]
        if self.pool > 1 and height >= self.pool_from[0] and width >= self.pool_from[1]:
            features = F.avg_pool2d(features, self.pool, self.pool, ceil_mode=True)
        return unit(features.flatten(2), 1).mT
