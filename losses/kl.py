"""Pixel-wise knowledge distillation: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015."""

from typing import Literal

from torch import Tensor, nn

from ._regions import labels_at
from ._relations import divergence
from ._task import Prediction, Task, at_least_float32, resize


class KL(nn.Module):
    """KL divergence between the teacher's and the student's class distribution of every pixel.

        L = T^2 / (B N) * sum_bn KL( softmax_k(t / T) || softmax_k(s / T) )

    Source: Hinton et al., arXiv 1503.02531, section 2, applied to each of the N pixels as in structured knowledge
    distillation (Liu et al., CVPR 2019) and CIRKD (weight 1, T = 1).
    Released codes that differ: AICSD divides by K as well, leaves out T^2 and compares at label size
    (reduction `element`, temperature_squared false, size `target`); TSIC divides by K as well and compares at the
    teacher's size with T = 5 (`element`, size `teacher`).

    Args:
        task: sizes of this run; needs a teacher.
        temperature: T > 0, in logit units.
        reduction: `pixel`: summed over classes, mean over B*N pixels. `element`: divided by K as well.
        temperature_squared: multiply by T^2, which keeps the gradient's size when T changes.
        size: at whose resolution the two are compared; the other one is resized bilinearly, by its own family's rule.
        mask_ignored: leave out pixels whose label is ignored (labels are resized to nearest). The published codes
            count them all.
        guide: the distribution to learn: that of the `teacher`; or of the `mean` of both networks' scores, with its
            gradient, as TSIC's second term has it, where SAM learns from (SAM + student) / 2; or `detached_mean`.

    Shapes:
        student.logits: (B, K, h, w); teacher.logits: (B, K, h', w'); both unnormalised. target: (B, H, W) int64.
        returns: scalar in nats. Gradients reach both networks: whether the teacher gets them is the graph's choice.

    Raises:
        ValueError: temperature <= 0, or no teacher to learn from.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        temperature: float = 1.0,
        reduction: Literal["pixel", "element"] = "pixel",
        temperature_squared: bool = True,
        size: Literal["student", "teacher", "target"] = "student",
        mask_ignored: bool = False,
        guide: Literal["teacher", "mean", "detached_mean"] = "teacher",
    ):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"kl: temperature must be above 0, got {temperature}")
        if task.teacher is None:
            raise ValueError("kl: a teacher is needed; name the network to learn from in the term's `from`")
        self.ignore_index = task.ignore_index
        self.temperature = temperature
        self.reduction = reduction
        self.factor = temperature**2 if temperature_squared else 1.0
        self.size = size
        self.mask_ignored = mask_ignored
        self.guide = guide

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        assert student.logits.shape[1] == teacher.logits.shape[1], "student and teacher differ in classes"
        size = {"student": student.logits, "teacher": teacher.logits, "target": target}[self.size].shape[-2:]
        scores = self.scores(student, size)
        guide = self.scores(teacher, size)
        if self.guide != "teacher":
            guide = (scores + guide) / 2
        if self.guide == "detached_mean":
            guide = guide.detach()
        per_pixel = divergence(scores, guide, 1)  # (B, h, w)
        if self.mask_ignored:
            valid = (labels_at(target, size) != self.ignore_index).to(per_pixel.dtype)
            mean = (per_pixel * valid).sum() / valid.sum().clamp_min(1)
        else:
            mean = per_pixel.mean()
        if self.reduction == "element":
            mean = mean / student.logits.shape[1]
        return self.factor * mean

    def scores(self, prediction: Prediction, size: tuple[int, int]) -> Tensor:
        """(B, K, h, w) logits / T."""
        return resize(at_least_float32(prediction.logits), size, prediction.align_corners) / self.temperature
