"""Cross pseudo labels of TriKD: Li et al., "Triple-View Knowledge Distillation", IEEE TMM 2026, arXiv 2309.12557."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._task import Prediction, Task, at_least_float32, resize


class CrossPseudo(nn.Module):
    """Cross entropy of one network's scores against the classes another one holds for the likeliest.

        y_n = argmax_k t_nk,   L = mean_n -log softmax(s_n)[y_n]

    Source: TriKD's released code, where each of three networks learns from the two others on unlabelled images: six
    such terms of weight 0.1, summed. There is no threshold on confidence and no ramp. Cross pseudo supervision is due
    to Chen et al., CVPR 2021, with two networks.

    Args:
        task: sizes of this run; needs a teacher, here any other network.
        mask_ignored: leave out pixels whose label is ignored, which on unlabelled images marks the padding; the
            released code counts padding too.

    Shapes:
        student.logits: (B, K, h, w), teacher.logits: (B, K, h', w'), unnormalised, both resized bilinearly to the
        label, each by its own family's rule. target: (B, H, W) int64, read for its size and by mask_ignored.
        returns: scalar in nats, mean over counted pixels. No gradient reaches the teacher.

    Raises:
        ValueError: no teacher.
    """

    label_free = True

    def __init__(self, task: Task, *, mask_ignored: bool = False):
        super().__init__()
        if task.teacher is None:
            raise ValueError("cross_pseudo: a teacher is needed; name the other network in the term's `from`")
        self.ignore_index = task.ignore_index
        self.mask_ignored = mask_ignored

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        size = target.shape[-2:]
        logits = resize(at_least_float32(student.logits), size, student.align_corners)  # (B, K, H, W)
        labels = pseudo_labels(teacher, size)
        if not self.mask_ignored:
            return F.cross_entropy(logits, labels)
        counted = target != self.ignore_index
        ce = F.cross_entropy(logits, labels, reduction="none")  # (B, H, W)
        return (ce * counted).sum() / counted.sum().clamp_min(1)


@torch.no_grad()
def pseudo_labels(prediction: Prediction, size: tuple[int, int]) -> Tensor:
    """The likeliest class of every pixel at `size`, (B, H, W) int64."""
    # raised before the resize: half types tie at class borders, and the winner of a tie is not specified
    return resize(at_least_float32(prediction.logits), size, prediction.align_corners).argmax(1)
