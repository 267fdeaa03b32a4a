"""The maps several losses share: unit vectors, standardised values, Gram matrices, KL between softmax distributions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(x: Tensor, dim: int | tuple[int, ...], eps: float = 1e-12) -> Tensor:
    """x / max(||x||_2, eps) over `dim`."""
    return F.normalize(x, dim=dim, eps=eps)


def inverse_norm(x: Tensor, dim: int, eps: float = 1e-8) -> Tensor:
    """1 / ||x||_2 over `dim`, which is kept; 0, without a gradient, where the norm is below eps.

    A product scaled by it is a cosine, and nothing of the size of x is made for it. A vector without a direction has
    cosine 0 with everything, as in torch's own cosine_similarity, whose gradient is 1 / eps times too large there.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return (norm >= eps) / norm.clamp_min(eps)


class _Standardised(torch.autograd.Function):
    """Keeps only its result for backward; autograd would keep x - mean too and make several maps more."""

    @staticmethod
    def forward(ctx, x: Tensor, dimensions: tuple[int, ...], eps: float) -> Tensor:
        deviation, mean = torch.std_mean(x, dimensions, keepdim=True)
        z = (x - mean).div_(deviation + eps)
        ctx.save_for_backward(z, deviation)
        ctx.dimensions, ctx.eps = dimensions, eps
        return z

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        z, deviation = ctx.saved_tensors
        n = z.numel() // deviation.numel()
        along = (grad * z).sum(ctx.dimensions, keepdim=True) / ((n - 1) * deviation)
        along = along.masked_fill(deviation == 0, 0)
        centred = grad - grad.mean(ctx.dimensions, keepdim=True)
        return centred.div_(deviation + ctx.eps).addcmul_(z, along, value=-1), None, None


def standardised(x: Tensor, dimensions: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / (deviation + eps) over `dimensions`, of two values at least, with the sample standard deviation.

    Where the deviation is 0 its derivative is taken as 0, so that constant values become 0 with a finite gradient.
    """
    assert any(x.shape[dimension] > 1 for dimension in dimensions), "a single value has no deviation"
    return _Standardised.apply(x, dimensions, eps)


class _RowGram(torch.autograd.Function):
    """X X^T, from the blocks on and above its diagonal.

    Its gradient is one product, (G + G^T) X: autograd takes two for it, not knowing that both factors are X.
    """

    @staticmethod
    def forward(ctx, x: Tensor, block: int) -> Tensor:
        ctx.save_for_backward(x)
        rows = x.shape[1]
        products = x.new_empty(len(x), rows, rows)
        for first in range(0, rows, block):
            last = first + block
            strip = x[:, first:last] @ x[:, first:].mT  # (B, block, C - first)
            products[:, first:last, first:] = strip
            products[:, last:, first:last] = strip[:, :, block:].mT
        return products

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return (grad + grad.mT) @ x, None


def row_gram(x: Tensor, *, block: int = 512) -> Tensor:
    """Inner products of the rows: (B, C, N) -> (B, C, C), `block` rows at a time. Keep autocast off around it."""
    return _RowGram.apply(x, block)


def divergence(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """KL( softmax(teacher) || softmax(student) ) over `dim`, which the result no longer has.

        sum_i p_i (log p_i - log q_i),  p = softmax(teacher), q = softmax(student)

    Taken from log_softmax, so that no probability underflows to log 0. Gradients reach both.
    """
    log_q, log_p = F.log_softmax(student, dim), F.log_softmax(teacher, dim)
    return (log_p.exp() * (log_p - log_q)).sum(dim)


class _RowDivergence(torch.autograd.Function):
    """Sum over rows of KL( softmax(t k_t^T) || softmax(s k_s^T) ), a block of rows at a time.

    Nothing of size rows x columns outlives its block: the gradient, (softmax(s k_s^T) - softmax(t k_t^T)) k_s, and the
    one for k_s, are computed together with the value, which costs memory linear in rows and columns. The teacher's
    side gets no gradient.
    """

    @staticmethod
    def forward(
        ctx, student: Tensor, student_keys: Tensor, teacher: Tensor, teacher_keys: Tensor, block: int
    ) -> Tensor:
        needs_rows, needs_keys = ctx.needs_input_grad[:2]
        total = student.new_zeros(())
        rows_grad = torch.empty_like(student) if needs_rows else None
        keys_grad = torch.zeros_like(student_keys) if needs_keys else None
        for first in range(0, len(student), block):
            part = slice(first, first + block)
            log_q = F.log_softmax(student[part] @ student_keys.mT, 1)  # (block, M)
            log_p = F.log_softmax(teacher[part] @ teacher_keys.mT, 1)
            p = log_p.exp()
            total += (p * (log_p - log_q)).sum()
            if needs_rows or needs_keys:
                difference = log_q.exp_().sub_(p)
            if needs_rows:
                rows_grad[part] = difference @ student_keys
            if needs_keys:
                keys_grad.addmm_(difference.mT, student[part])
        ctx.save_for_backward(rows_grad, keys_grad)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):
        return *(None if x is None else grad * x for x in ctx.saved_tensors), None, None, None


def row_divergence(
    student: Tensor, student_keys: Tensor, teacher: Tensor, teacher_keys: Tensor, *, block: int = 1024
) -> Tensor:
    """Sum over rows r of KL( softmax_m(t_r . kt_m) || softmax_m(s_r . ks_m) ), with memory linear in rows and columns.

    Args:
        block: rows computed at a time.

    Shapes:
        student: (R, C), student_keys: (M, C), teacher: (R, C'), teacher_keys: (M, C'). returns: scalar. Scale the rows
        by 1 / temperature beforehand. No gradient reaches the teacher's side. Keep autocast off around it.
    """
    return _RowDivergence.apply(student, student_keys, teacher.detach(), teacher_keys.detach(), block)


def gram_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over images and pairs of nodes of (s_i . s_j - t_i . t_j)^2, without any N x N matrix where N is large.

    With more nodes than channels the square is expanded into matrices of channels x channels,
    sum (S^T S - T^T T)^2 = |S S^T|^2 - 2 |S T^T|^2 + |T T^T|^2. What float32 then loses is about 1e-6 of |S S^T|^2.

    Shapes:
        student: (B, C, N), teacher: (B, C', N). returns: scalar.
    """
    if student.shape[2] <= student.shape[1] + teacher.shape[1]:
        return (student.mT @ student - teacher.mT @ teacher).square().sum()
    own, cross, other = (a @ b.mT for a, b in ((student, student), (student, teacher), (teacher, teacher)))
    return own.square().sum() - 2 * cross.square().sum() + other.square().sum()


def image_pair_divergence(
    student: Tensor, student_keys: Tensor, teacher: Tensor, teacher_keys: Tensor, temperature: float
) -> Tensor:
    """Mean over ordered pairs of images (i, j) and rows of i of KL( softmax(t_i t_j^T / T) || softmax(s_i s_j^T / T) ).

    Shapes:
        student: (B, R, C), student_keys: (B', M, C), teacher: (B, R, C'), teacher_keys: (B', M, C'). returns: scalar.
        Memory is linear in R and M, see row_divergence.
    """
    student = student.flatten(0, 1) / temperature  # (B R, C)
    teacher = teacher.flatten(0, 1) / temperature  # (B R, C')
    total = sum(row_divergence(student, s, teacher, t) for s, t in zip(student_keys, teacher_keys, strict=True))
    return total / (len(student) * len(student_keys))


def attention_map(features: Tensor, power: float = 2.0) -> Tensor:
    """mean_c |f_c|^p, the energy of each position: (B, C, h, w) -> (B, h, w)."""
    return (features.square() if power == 2 else features.abs().pow(power)).mean(1)
