"""The attention term of TriKD: Li et al., "Triple-View Knowledge Distillation", IEEE TMM 2026, arXiv 2309.12557."""

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._task import Prediction, Task, at_least_float32, resize

# entries of the teacher's maps in work at once: some 200 MB in float32, whatever the number of images and heads
BLOCK = 2**22


class AttentionKL(nn.Module):
    """KL divergence between the rows of two transformers' attention maps, each a distribution over tokens.

        L = 1 / (B A M) sum_bam KL( softmax(t_bam) || softmax(stretch(P s)_bam) ) / M

    A heads of M x M tokens at the teacher, P a learnt map of the student's heads to the teacher's, `stretch` a resize
    of the student's M' x M' tokens to M x M, t and s the scores before their softmax.

    Source: TriKD's released code (weight 0.5 between its last TinyViT and DeiT blocks, on labelled and unlabelled
    images). It divides each row's divergence once more by the M columns, and stretches the map of flattened tokens as
    if it were an image, so that a token of the student meets others than those of its place.

    Args:
        feature, teacher_feature: maps whose channels are heads.
        projection: P: `affine`, a 1x1 convolution with bias, or `none` where the heads are as many (else a ValueError).
        stretch: `flat`, as released; `grid` resizes the queries' and the keys' grids of tokens, each as an image.
            Both are bilinear with aligned corners.
        reduction: `element`, as released. `row`: mean over rows, so M times as much.

    Shapes:
        student.features[feature]: (B, A', M', M'), teacher.features[teacher_feature]: (B, A, M, M): queries, then keys.
        `grid` takes the height and width of each grid of tokens from the shape of that network's logits.
        returns: scalar in nats. Besides the student's maps and their gradient, memory does not grow with B or A. The
        teacher gets no gradient.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "attention",
        teacher_feature: str | None = None,
        projection: Literal["affine", "none"] = "affine",
        stretch: Literal["flat", "grid"] = "flat",
        reduction: Literal["element", "row"] = "element",
    ):
        super().__init__()
        self.feature = feature
        self.teacher_feature = teacher_feature or feature
        heads = task.student.use(self.feature), task.teacher.use(self.teacher_feature)
        if projection == "none" and heads[0] != heads[1]:
            raise ValueError(f"attention_kl: projection none needs equal heads, got {heads[0]} and {heads[1]}")
        self.projection = nn.Conv2d(*heads, 1) if projection == "affine" else nn.Identity()
        self.stretch = stretch
        self.reduction = reduction

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        goal = teacher.features[self.teacher_feature].detach()  # (B, A, M, M)
        # scores of trained transformers reach hundreds, where bf16 steps by one
        with torch.autocast(goal.device.type, enabled=False):
            guess = self.projection(at_least_float32(student.features[self.feature]))  # (B, A, M', M')
            tokens = goal.shape[-1]
            stretch = functools.partial(stretch_flat, tokens=tokens)
            if self.stretch == "grid":
                small = token_grid(guess.shape[-1], student.logits.shape[-2:])
                large = token_grid(tokens, teacher.logits.shape[-2:])
                stretch = functools.partial(stretch_grid, small=small, large=large)
            total = _MapDivergence.apply(guess.flatten(0, 1), goal.flatten(0, 1), stretch, BLOCK)
        rows = goal.numel() // tokens
        return total / (rows * tokens if self.reduction == "element" else rows)


class _MapDivergence(torch.autograd.Function):
    """Sum over all rows of KL( softmax(teacher) || softmax(stretch(student)) ), a block of maps at a time.

    The gradient, softmax(stretch(s)) - softmax(t) brought back to the student's size, is taken with the value: besides
    the two inputs only that, as large as the student's maps, outlives a block.

    Shapes:
        student: (R, M', M'), teacher: (R, M, M), stretch: a linear map of the first shape to the second.
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, stretch: Callable[[Tensor], Tensor], block: int) -> Tensor:
        total = student.new_zeros(())
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        maps = max(1, block // teacher[0].numel())
        for first in range(0, len(student), maps):
            part = slice(first, first + maps)
            small = student[part].detach().requires_grad_()
            with torch.enable_grad():
                scores = stretch(small)  # linear, so nothing is kept for its backward
            log_q = F.log_softmax(scores.detach(), -1)
            log_p = F.log_softmax(teacher[part].to(log_q.dtype), -1)
            p = log_p.exp()
            total += log_p.sub_(log_q).mul_(p).sum()
            if gradient is not None:
                (gradient[part],) = torch.autograd.grad(scores, small, log_q.exp_().sub_(p))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None


def stretch_flat(maps: Tensor, tokens: int) -> Tensor:
    """(R, M', M') -> (R, M, M), the map of flattened tokens taken for an image."""
    return resize(maps[None], (tokens, tokens), align_corners=True)[0]


def stretch_grid(maps: Tensor, small: tuple[int, int], large: tuple[int, int]) -> Tensor:
    """(R, M', M') -> (R, M, M) for M' = h' * w' and M = h * w: the keys' grid is resized, then the queries'."""
    for _ in range(2):
        maps = resize(maps.unflatten(2, small), large, align_corners=True).flatten(2).mT  # (R, h * w, other tokens)
    return maps


def token_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a grid of so many tokens whose shape is nearest to that of `size` = (height, width).

    Of sides that differ by little, as 17 x 16, logits of a few pixels cannot tell which is the longer one.
    """
    heights = [h for h in range(1, tokens + 1) if tokens % h == 0]
    height = min(heights, key=lambda h: abs(h * size[1] / (tokens // h * size[0]) - 1))
    return height, tokens // height
