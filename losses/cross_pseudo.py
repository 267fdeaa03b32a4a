"""Cross pseudo labels of TriKD: Li et al., "Triple-View Knowledge Distillation", IEEE TMM 2026, arXiv 2309.12557."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._task import Prediction, Task, scores_at


class CrossPseudo(nn.Module):
    """Cross entropy of one network's scores against the classes another one holds for the likeliest.

        y_n = argmax_k t_nk,   L = mean_n -log softmax(s_n)[y_n]

    Source: TriKD's released code, where each of three networks learns from the two others on unlabelled images: six
    such terms of weight 0.1, summed. There is no threshold on confidence and no ramp. Cross pseudo supervision is due
    to Chen et al., CVPR 2021, with two networks.

    Args:
        mask_ignored: leave out pixels whose label is ignored, which on unlabelled images marks the padding; the
            released code counts padding too.

    Returns:
        scalar in nats, mean over counted pixels; 0 with zero gradient when none is counted. Both networks' scores are
        resized to the label, each by its own family's rule. The teacher gets no gradient.
    """

    label_free = True
    detaches_source = True

    def __init__(self, task: Task, *, mask_ignored: bool = False):
        super().__init__()
        self.ignore_index = task.ignore_index
        self.mask_ignored = mask_ignored

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        size = target.shape[-2:]
        logits = scores_at(student, size)  # (B, K, H, W)
        labels = pseudo_labels(teacher, size)
        if not self.mask_ignored:
            return F.cross_entropy(logits, labels)
        counted = target != self.ignore_index
        ce = F.cross_entropy(logits, labels, reduction="none")  # (B, H, W)
        return (ce * counted).sum() / counted.sum().clamp_min(1)


@torch.no_grad()
def pseudo_labels(prediction: Prediction, size: tuple[int, int]) -> Tensor:
    """The likeliest class of every pixel at `size`, (B, H, W) int64."""
    # half types, unless raised before the resize, tie at class borders, and the winner of a tie is not specified
    return scores_at(prediction, size).argmax(1)
