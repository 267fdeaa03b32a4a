"""Pixel-wise knowledge distillation: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015."""

import warnings
from typing import Literal

from torch import Tensor, nn

from ._pair import ComparedAt, scores_of_both
from ._regions import labels_at
from ._relations import divergence, standardised
from ._task import Positive, Prediction, Task, Temperature


class KL(nn.Module):
    """KL divergence between the teacher's and the student's class distribution of every pixel.

        L = T^2 / (B N) * sum_bn KL( softmax_k(t / T) || softmax_k(s / T) )

    Source: Hinton et al., arXiv 1503.02531, section 2, applied to each of the N pixels as in structured knowledge
    distillation (Liu et al., CVPR 2019) and CIRKD (weight 1, T = 1).
    Released codes that differ: AICSD divides by K as well, leaves out T^2 and compares at label size
    (reduction `element`, temperature_squared false, size `target`); TSIC divides by K as well and compares at the
    teacher's size with T = 5 (`element`, size `teacher`).

    Args:
        reduction: `pixel`: summed over classes, mean over B*N pixels. `element`: divided by K as well.
        temperature_squared: multiply by T^2, which keeps the gradient's size when T changes.
        standardize: take z = (s - mean_k s) / (deviation_k s + eps) for the scores of both networks, after the resize,
            so that the student need not reproduce the size of the teacher's: Sun et al., "Logit Standardization in
            Knowledge Distillation", CVPR 2024, arXiv 2403.01427 (T = 2, weight 9 there, and 0.1 for cross entropy; in
            classification only). With the sample deviation of the released code no |z| exceeds (K - 1) / sqrt(K), so
            that guides stay soft however sure the teacher is; with K = 2 each z is 0.71 or -0.71 and nothing is learnt,
            which warns.
        eps: added to that deviation; a larger one keeps the noise of pixels with nearly equal scores small.
        guide: the distribution to learn: that of the `teacher`; or of the `mean` of both networks' scores, with its
            gradient, as TSIC's second term has it, where SAM learns from (SAM + student) / 2; or `detached_mean`.

    Returns:
        scalar in nats; 0 with zero gradient when no pixel is counted.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        temperature: Temperature = 1.0,
        reduction: Literal["pixel", "element"] = "pixel",
        temperature_squared: bool = True,
        size: ComparedAt = "student",
        mask_ignored: bool = False,
        standardize: bool = False,
        eps: Positive = 1e-7,
        guide: Literal["teacher", "mean", "detached_mean"] = "teacher",
    ):
        super().__init__()
        self.ignore_index = task.ignore_index
        self.temperature = temperature
        self.reduction = reduction
        self.factor = temperature**2 if temperature_squared else 1.0
        self.size = size
        self.mask_ignored = mask_ignored
        self.guide = guide
        self.standardize, self.eps = standardize, eps
        if standardize and task.num_classes == 2:
            warnings.warn("kl: with 2 classes standardised scores are all alike; leave standardize out", stacklevel=2)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        assert student.logits.shape[1] == teacher.logits.shape[1], "student and teacher differ in classes"
        both = scores_of_both(student, teacher, target, self.size)
        if self.standardize:
            both = (standardised(x, (1,), self.eps) for x in both)
        scores, guide = (x / self.temperature for x in both)  # (B, K, h, w)
        if self.guide != "teacher":
            guide = (scores + guide) / 2
        if self.guide == "detached_mean":
            guide = guide.detach()
        per_pixel = divergence(scores, guide, 1)  # (B, h, w)
        if self.mask_ignored:
            valid = (labels_at(target, scores.shape[-2:]) != self.ignore_index).to(per_pixel.dtype)
            mean = (per_pixel * valid).sum() / valid.sum().clamp_min(1)
        else:
            mean = per_pixel.mean()
        if self.reduction == "element":
            mean = mean / student.logits.shape[1]
        return self.factor * mean
