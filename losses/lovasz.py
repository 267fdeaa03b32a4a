"""Lovasz-Softmax: Berman, Rannen Triki, Blaschko, "The Lovász-Softmax loss", CVPR 2018, arXiv 1705.08790."""

from typing import Literal

import torch
from torch import Tensor, nn

from ._task import Prediction, Task, Weight, at_least_float32, of_heads, resize


class Lovasz(nn.Module):
    """The convex extension of one minus the IoU of each class, a surrogate of mIoU itself.

        p = softmax(z),    m_nc = 1 - p_nc where the label is c, else p_nc
        L(z) = mean_c sum_n m_nc g_nc,    loss = L(logits) + aux_weight * L(aux)

    With the pixels in the order of falling m_c, g_nc is what pixel n adds to the Jaccard loss 1 - I / U of class c if
    all pixels up to it are wrong (eq. 8 and algorithm 1). n runs over the counted pixels at label size, to which z is
    resized bilinearly. g is constant wherever the order is, so it carries no gradient, and it is the same function
    to sort once without one: K sorts of the pixels, of which one number for each pixel and class is kept. The
    differences of nearly equal ratios are taken in float64, where the released code has float32.

    Args:
        classes: over which classes the mean is taken: those `present` in the labels, or `all`.
        per_image: of each image for itself, then the mean over images; else the batch is one large image.
        aux_weight: factor of the auxiliary head's loss.

    Returns:
        scalar in 0..1 for each head; 0 with zero gradient when every pixel is ignored. The teacher is not used.
    """

    def __init__(
        self,
        task: Task,
        *,
        classes: Literal["present", "all"] = "present",
        per_image: bool = False,
        aux_weight: Weight = 0.4,
    ):
        super().__init__()
        task.student.read_heads()
        self.ignore_index = task.ignore_index
        self.classes, self.per_image, self.aux_weight = classes, per_image, aux_weight

    def forward(self, student: Prediction, teacher: Prediction | None, target: Tensor) -> Tensor:
        return of_heads(self.of_head, student, target, self.aux_weight)

    def of_head(self, logits: Tensor, target: Tensor, align_corners: bool) -> Tensor:
        """The loss of one head's (B, K, h, w) scores, a scalar."""
        scores = resize(at_least_float32(logits), target.shape[-2:], align_corners)  # (B, K, H, W)
        images, labels = scores.softmax(1).flatten(2), target.flatten(1)  # (B, K, N), (B, N)
        if not self.per_image:
            images, labels = images.transpose(0, 1).flatten(1)[None], labels.flatten()[None]  # (1, K, B N), (1, B N)
        return torch.stack([self._of_pixels(*pixels) for pixels in zip(images, labels)]).mean()

    def _of_pixels(self, probability: Tensor, labels: Tensor) -> Tensor:
        """The loss of (K, N) probabilities and (N,) labels, a scalar."""
        valid, losses, counted = labels != self.ignore_index, [], []
        for number, own in enumerate(probability):
            is_class = (labels == number) & valid
            wrong = torch.where(is_class, 1 - own, own)
            losses.append((wrong * jaccard_steps(wrong.detach(), is_class, valid)).sum())
            counted.append(is_class.any() if self.classes == "present" else valid.any())
        counted = torch.stack(counted)
        return (torch.stack(losses) * counted).sum() / counted.sum().clamp_min(1)


def jaccard_steps(wrong: Tensor, is_class: Tensor, valid: Tensor) -> Tensor:
    """(N,) what each pixel adds to the Jaccard loss of a class, the pixels taken in the order of falling `wrong`.

    Args:
        wrong: (N,) in 0..1. is_class, valid: (N,) bool; pixels that are not valid add nothing.
    """
    order = wrong.masked_fill(~valid, -1).argsort(descending=True)  # those that are not valid come last
    hits = is_class[order]
    total = hits.sum()
    union = total + (~hits).cumsum(0)
    loss = 1 - (total - hits.cumsum(0)).double() / union.clamp_min(1)
    steps = torch.diff(loss, prepend=loss.new_zeros(1)).to(wrong.dtype)
    return torch.empty_like(steps).scatter_(0, order, steps) * valid
