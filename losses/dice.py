"""Dice loss: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016, arXiv 1606.04797; with class means as in medical codes."""

from typing import Literal

import torch
from torch import Tensor, nn

from ._task import Positive, Prediction, Task, Weight, at_least_float32, of_heads, resize


class Dice(nn.Module):
    """One minus the overlap of each class's probabilities with its label, of small classes as much as of large ones.

        p = softmax(z),    D_c = (2 sum_n p_nc y_nc + smooth) / (sum_n p_nc + sum_n y_nc + smooth)
        L(z) = mean_c (1 - D_c),    loss = L(logits) + aux_weight * L(aux)

    n runs over the counted pixels at label size, to which z is resized bilinearly; y_nc = 1 where the label is c.
    V-Net itself squares p in the denominator and has two classes.

    Args:
        classes: over which classes the mean is taken: those `present` in the labels, or `all`.
        per_image: of each image for itself, then the mean over images; else the batch is one large image.
        smooth: keeps the ratio of classes with few pixels from 0 and 1. aux_weight: factor of the auxiliary head's loss.

    Returns:
        scalar in 0..1 for each head; 0 with zero gradient when every pixel is ignored. The teacher is not used.
    """

    def __init__(
        self,
        task: Task,
        *,
        classes: Literal["present", "all"] = "present",
        per_image: bool = False,
        smooth: Positive = 1.0,
        aux_weight: Weight = 0.4,
    ):
        super().__init__()
        task.student.read_heads()
        self.ignore_index = task.ignore_index
        self.classes, self.per_image, self.smooth, self.aux_weight = classes, per_image, smooth, aux_weight

    def forward(self, student: Prediction, teacher: Prediction | None, target: Tensor) -> Tensor:
        return of_heads(self.of_head, student, target, self.aux_weight)

    def of_head(self, logits: Tensor, target: Tensor, align_corners: bool) -> Tensor:
        """The loss of one head's (B, K, h, w) scores, a scalar."""
        scores = resize(at_least_float32(logits), target.shape[-2:], align_corners)  # (B, K, H, W)
        valid = (target != self.ignore_index)[:, None]  # (B, 1, H, W)
        known = torch.arange(scores.shape[1], device=target.device)[:, None, None]
        labels = (target[:, None] == known) & valid  # (B, K, H, W)
        probability = scores.softmax(1) * valid
        over = (2, 3) if self.per_image else (0, 2, 3)
        overlap, label = (probability * labels).sum(over), labels.sum(over)  # (B, K) or (K,)
        dice = (2 * overlap + self.smooth) / (probability.sum(over) + label + self.smooth)
        counted = label > 0 if self.classes == "present" else torch.ones_like(label, dtype=torch.bool)
        counted = counted & valid.any(3).any(2).any(1 if self.per_image else None, keepdim=self.per_image)
        loss = ((1 - dice) * counted).sum(-1) / counted.sum(-1).clamp_min(1)
        return loss.mean()
