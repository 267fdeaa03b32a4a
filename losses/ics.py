"""ICS of AICSD: Mansourian, Ahmadi, Kasaei, "Adaptive Inter-Class Similarity Distillation", 2025, arXiv 2308.04243."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._pair import ComparedAt, scores_of_both
from ._relations import unit
from ._task import Positive, Prediction, Task, Temperature


class ICS(nn.Module):
    """Mean squared difference of the two networks' matrices of divergences between the maps of every two classes.

        p_i = softmax over pixels of class i's scores / T
        M_ij = 1/B sum_b KL( p_i || p_j )
        L = mean_ij ( m^S_ij - m^T_ij )^2 / B,   m_i = M_i / max(||M_i||_2, eps)

    Source: the inter-class similarity loss, its released code and a side branch of that, which disagree. The paper's
    text was not at hand: `paper` follows its abstract, figure and README, with the row norm and 1/B of the code, to
    which the published weight 9500 belongs. B is the batch of one process.

    Args:
        variant: `paper`: as above. `raw`: without row norm and 1/B. `symmetric`: KL(p_j || p_i) for i <= j, mirrored
            into the lower triangle. `branch`: as symmetric, but the side branch's M_ij = sum_n p_j (log p_j - p_i),
            a probability where its logarithm belongs, so hardly more than the entropy of class max(i, j).
            `released`: as branch, and the softmax runs over each column of pixels instead of the whole map.
        size: the released code compares at label size.
        eps: the least norm of a row. 1e-12 in the released code; with true divergences, a student whose class maps are
            all alike then gets rounding noise times 1e12 as its gradient.

    Returns:
        scalar; without unit, in squared nats for `raw`. Ignored pixels count as any other.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "raw", "symmetric", "branch", "released"] = "paper",
        temperature: Temperature = 1.0,
        size: ComparedAt = "target",
        eps: Positive = 1e-6,
    ):
        super().__init__()
        self.variant = variant
        self.temperature = temperature
        self.size = size
        self.eps = eps

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = (self.matrix(x) for x in scores_of_both(student, teacher, target, self.size))
        loss = F.mse_loss(guess, goal)
        return loss if self.variant == "raw" else loss / len(student.logits)

    def matrix(self, logits: Tensor) -> Tensor:
        """(B, K, h, w) scores -> (K, K), its rows of unit length unless the variant is `raw`."""
        # a pixel's share of a map is about 4e-6, less than half types can add up
        with torch.autocast(logits.device.type, enabled=False):
            matrix = self.divergences(logits / self.temperature).mean(0)
        return matrix if self.variant == "raw" else unit(matrix, 1, self.eps)

    def divergences(self, scores: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, K, K): one matrix product per image in place of K * K passes over the maps."""
        if self.variant == "released":
            log_p = F.log_softmax(scores, dim=2).flatten(2)  # (B, K, N), each image column sums to 1
        else:
            log_p = F.log_softmax(scores.flatten(2), dim=2)  # (B, K, N)
        p = log_p.exp()
        if self.variant in ("released", "branch"):
            entropy = -(p * log_p).sum(2)  # (B, K)
            return _mirror(-entropy[:, None] - p @ p.mT)
        # what all classes share at a pixel cancels between the two terms below; left out, so does its rounding error
        log_p = log_p - log_p.mean(1, keepdim=True)
        cross = p @ log_p.mT  # (B, K, K), sum_n p_i log p_j
        divergences = cross.diagonal(dim1=1, dim2=2)[..., None] - cross  # the diagonal is exactly 0
        return _mirror(divergences.mT) if self.variant == "symmetric" else divergences


def _mirror(matrix: Tensor) -> Tensor:
    """The upper triangle of (B, K, K), and the same in the lower one."""
    return matrix.triu() + matrix.triu(1).mT
