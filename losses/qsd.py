"""QSD: Lv et al., "Generalizable Knowledge Distillation from Vision Foundation Models ...", CVPR 2026, 2603.02554."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._pair import Pair
from ._task import Count, Prediction, Task


class QSD(nn.Module):
    """The teacher's tokens, put together from the student's by an attention that the student's tokens ask and the
    teacher's answer.

        q = W_q LN(s) + b_q,    v = W_v LN'(s) + b_v,    L = mean_bnc ( softmax_m(q t^T) v - t )^2

    The two layer norms and linear maps are trained with the student, and thrown away: a position of the student may be
    matched by any mix of positions that the teacher's keys select.

    Source: the query-based soft distillation of GKD's first stage (weight 1), which trains an encoder without labels.
    The products are not divided by sqrt(C'), so that the softmax of a foundation model's tokens begins nearly one-hot.
    The released stage is three such terms: on the class tokens, c; on the N patches; and, not possible here, on the
    student's patches of masked images. Its error over 1 + N tokens makes the weights 1 + 1 / (1 + N) and N / (1 + N).
    It has tokens of equal grids; here the student's map is resized to the teacher's first.

    Args:
        heads: blocks of consecutive channels of the teacher, each with an attention of its own.
        scaled: divide the products by the square root of a head's channels.

    Returns:
        scalar, mean over B*N*C', in squared feature units. The teacher gets no gradient.

    Raises:
        ValueError: teacher channels that `heads` does not divide.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "stage4",
        teacher_feature: str | None = None,
        heads: Count = 1,
        scaled: bool = False,
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        widths = self.pair.student_channels, self.pair.teacher_channels
        if widths[1] % heads:
            raise ValueError(f"qsd: heads must divide the teacher's channels; got {heads} heads, {widths[1]} channels")
        self.heads = heads
        self.scale = None if scaled else 1.0
        self.query, self.value = (nn.Sequential(nn.LayerNorm(widths[0]), nn.Linear(*widths)) for _ in range(2))

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        tokens, goal = (x.flatten(2).mT for x in self.pair.maps(student, teacher))  # (B, N, C), (B, N, C')
        return F.mse_loss(self.output(tokens, goal.detach()), goal.detach())

    def output(self, tokens: Tensor, goal: Tensor) -> Tensor:
        """The student's values as the teacher's keys mix them: (B, N, C), (B, N, C') -> (B, N, C')."""
        # the scores of foundation models reach hundreds: half types would lose them
        with torch.autocast(goal.device.type, enabled=False):
            rows = (self.query(tokens), goal, self.value(tokens))
            rows = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in rows)  # (B, heads, N, C' / heads)
            seen = F.scaled_dot_product_attention(*rows, scale=self.scale)
        return seen.transpose(1, 2).flatten(2)
