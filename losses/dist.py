"""DIST: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv 2205.10536."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._regions import labels_at
from ._task import Positive, Prediction, Task, Temperature, Weight, at_least_float32, resize


class DIST(nn.Module):
    """The student's class probabilities correlate with the teacher's, per pixel over classes and per class over pixels.

        rho(x, y) = <x - mean x, y - mean y> / ( ||x - mean x|| * ||y - mean y|| + eps )
        D = inter * (1 - mean_bn rho over classes) + intra * (1 - mean_k rho over pixels),   both of p = softmax(z / T)
        L = T^2 * ( D(logits) + aux_weight * D(aux) )

    Source: the inter-class and intra-class relations of section 3.2, weights 1 and 1 in the segmentation code, whose
    term on the auxiliary heads the paper does not have, nor a temperature. The intra-class correlation runs over the
    batch of one process, as there: its value depends on the local batch size. With K = 2 the correlation of a pixel
    is 1 or -1, so only `intra` teaches.

    Args:
        inter: factor of the per-pixel part. intra: factor of the per-class part.
        aux_weight: factor of the auxiliary heads' part, which counts where both networks have made such scores (most
            networks make them in training only).
        eps: added to the product of the two norms.

    Returns:
        scalar without unit, 0 to 2 (inter + intra) for the logits at T = 1; 0 with zero gradient when no pixel is
        counted.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        inter: Weight = 1.0,
        intra: Weight = 1.0,
        aux_weight: Weight = 0.4,
        temperature: Temperature = 1.0,
        eps: Positive = 1e-8,
        mask_ignored: bool = False,
    ):
        super().__init__()
        if inter == intra == 0:
            raise ValueError("dist: inter and intra are both 0; give one of the parts a weight")
        self.ignore_index = task.ignore_index
        self.inter, self.intra, self.aux_weight = inter, intra, aux_weight
        for features in (task.student, task.teacher):
            features.named_scores.add("logits")
        if aux_weight > 0 and task.teacher.ask_for_aux():
            task.student.named_scores.add("aux")
        self.temperature = temperature
        self.eps = eps
        self.mask_ignored = mask_ignored

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        loss = self.of_head(student.logits, teacher.logits, target, student.align_corners)
        if self.aux_weight > 0 and student.aux is not None and teacher.aux is not None:
            loss = loss + self.aux_weight * self.of_head(student.aux, teacher.aux, target, student.align_corners)
        return loss

    def of_head(self, student: Tensor, teacher: Tensor, target: Tensor, align_corners: bool) -> Tensor:
        """T^2 * D of one head's scores, a scalar."""
        size = teacher.shape[-2:]
        counted = None
        if self.mask_ignored:
            counted = (labels_at(target, size) != self.ignore_index)[:, None]  # (B, 1, h', w')
        inter, intra = self.distances(resize(at_least_float32(student), size, align_corners), teacher, counted)
        return self.temperature**2 * (self.inter * inter + self.intra * intra)

    def distances(self, student: Tensor, teacher: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two parts without factors, each in 0..2.

        Shapes:
            student, teacher: (B, K, h, w) scores. counted: (B, 1, h, w) bool, or None for all. returns: two scalars.
        """
        p_s, p_t = (F.softmax(at_least_float32(z) / self.temperature, dim=1) for z in (student, teacher))
        between_classes = self.correlation(p_s, p_t, (1,))  # (B, 1, h, w)
        if counted is None:
            return 1 - between_classes.mean(), 1 - self.correlation(p_s, p_t, (0, 2, 3)).mean()
        counted = counted.to(p_s.dtype)
        number = counted.sum()
        inter = ((1 - between_classes) * counted).sum() / number.clamp_min(1)
        within_class = self.correlation(p_s, p_t, (0, 2, 3), counted)  # (1, K, 1, 1)
        # nothing counted: no correlation is defined, and the part is 0
        return inter, (1 - within_class.mean()) * (number > 0)

    def correlation(self, x: Tensor, y: Tensor, dims: tuple[int, ...], counted: Tensor | None = None) -> Tensor:
        """rho over `dims`, which stay as dimensions of size 1."""
        x, y = (_centre(value, dims, counted) for value in (x, y))
        # centred in a pass of its own: E[xy] - E[x]E[y] would lose the classes of small probability to cancellation
        norms = (torch.linalg.vector_norm(value, dim=dims, keepdim=True) for value in (x, y))
        return (x * y).sum(dims, keepdim=True) / (next(norms) * next(norms) + self.eps)


def _centre(x: Tensor, dims: tuple[int, ...], counted: Tensor | None) -> Tensor:
    """x less its mean over `dims`; what is not counted becomes 0."""
    if counted is None:
        return x - x.mean(dims, keepdim=True)
    mean = (x * counted).sum(dims, keepdim=True) / counted.sum(dims, keepdim=True).clamp_min(1)
    return (x - mean) * counted
