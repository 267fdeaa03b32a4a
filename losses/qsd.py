"""QSD: Lv et al., "Generalizable Knowledge Distillation from Vision Foundation Models ...", CVPR 2026, 2603.02554."""

import torch
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
    detaches_source = True

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
        self.scale = (heads / widths[1]) ** 0.5 if scaled else 1.0
        self.query, self.value = (nn.Sequential(nn.LayerNorm(widths[0]), nn.Linear(*widths)) for _ in range(2))

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        tokens, goal = (x.flatten(2).mT for x in self.pair.maps(student, teacher))  # (B, N, C), (B, N, C')
        # the scores of foundation models reach hundreds: half types would lose them
        with torch.autocast(goal.device.type, enabled=False):
            rows = (self.query(tokens) * self.scale, goal.detach(), self.value(tokens))
            # (B * heads, N, C' / heads)
            rows = (x.unflatten(2, (self.heads, -1)).transpose(1, 2).flatten(0, 1) for x in rows)
            return _AttentionError.apply(*rows, 1024) / goal.numel()


class _AttentionError(torch.autograd.Function):
    """Sum of ( softmax(q t^T) v - t )^2, a block of rows at a time.

    Nothing of size N x N outlives its block: the gradients of q and v are computed together with the value, which a
    fused attention could not know and would need two products more for. The teacher's side gets none.

    Shapes:
        query, goal, value: (R, N, D). returns: scalar.
    """

    @staticmethod
    def forward(ctx, query: Tensor, goal: Tensor, value: Tensor, block: int) -> Tensor:
        total = query.new_zeros(())
        wanted = any(ctx.needs_input_grad)
        of_query, of_value = (torch.zeros_like(x) if wanted else None for x in (query, value))
        for i, (q, t, v) in enumerate(zip(query, goal, value, strict=True)):
            for first in range(0, len(q), block):
                part = slice(first, first + block)
                weights = torch.softmax(q[part] @ t.mT, 1)  # (block, N)
                error = torch.addmm(t[part], weights, v, beta=-1)
                total += error.square().sum()
                if wanted:
                    error *= 2
                    of_value[i].addmm_(weights.mT, error)
                    of_weights = error @ v.mT
                    of_weights -= (of_weights * weights).sum(1, keepdim=True)
                    of_query[i, part] = of_weights.mul_(weights) @ t
        ctx.save_for_backward(of_query, of_value)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):
        of_query, of_value = ctx.saved_tensors
        return grad * of_query, None, grad * of_value, None
