"""The attention term against interpolation and torch's own KL on whole maps, and the grids of tokens."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses import attention_kl
from segkd.losses._task import Features, Task
from segkd.losses.attention_kl import AttentionKL, stretch_grid, token_grid


def make_task(student=3, teacher=2):
    heads = {"student": student, "teacher": teacher}
    return Task(4, 255, *(Features(owner, {"attention": number}, {}) for owner, number in heads.items()))


def maps(seed, *shape):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal(student, teacher):
    """Mean over elements of the divergence of whole maps."""
    student = F.interpolate(student, size=teacher.shape[-2:], mode="bilinear", align_corners=True)
    return F.kl_div(F.log_softmax(student, -1), F.softmax(teacher, -1), reduction="none").mean()


@pytest.mark.parametrize("tokens", [(4, 9), (9, 4), (6, 6)])
@pytest.mark.parametrize("reduction", ["element", "row"])
def test_value_and_gradients(tokens, reduction):
    student, teacher = maps(0, 2, 3, tokens[0], tokens[0]).requires_grad_(), maps(1, 2, 2, tokens[1], tokens[1])
    loss = AttentionKL(make_task(), reduction=reduction).double()
    weight, bias = loss.projection.parameters()
    inputs = student, weight, bias
    wanted = literal(F.conv2d(student, weight, bias), teacher) * (tokens[1] if reduction == "row" else 1)
    value = loss(prediction(attention=student), prediction(attention=teacher), None)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("block", [1, 50, 10**6])
def test_blocks_change_nothing(monkeypatch, block):
    student, teacher = maps(0, 2, 2, 4, 4).requires_grad_(), maps(1, 2, 2, 6, 6)
    monkeypatch.setattr(attention_kl, "BLOCK", block)
    pair = prediction(attention=student), prediction(attention=teacher)
    value = AttentionKL(make_task(2, 2), projection="none")(*pair, None)
    wanted = literal(student, teacher)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(torch.autograd.grad(value, student), torch.autograd.grad(wanted, student))


def test_grid_resizes_queries_and_keys_in_place():
    """A map whose score is f(query) + g(key), each linear in the place: the resized one is the same function."""

    def scores(h, w):
        y, x = torch.linspace(0, 1, h, dtype=torch.float64), torch.linspace(0, 1, w, dtype=torch.float64)
        f, g = (2 * y[:, None] - x).flatten(), (y[:, None] + 3 * x).flatten()
        return (f[:, None] + g)[None]

    torch.testing.assert_close(stretch_grid(scores(3, 2), (3, 2), (4, 7)), scores(4, 7))
    loss = AttentionKL(make_task(1, 1), projection="none", stretch="grid")
    sizes = ((3, 2), (30, 20)), ((4, 7), (40, 70))
    given = [prediction(torch.zeros(1, 4, *size), attention=scores(*grid)[None]) for grid, size in sizes]
    value = loss(*given, None)
    assert value.item() == pytest.approx(0, abs=1e-12)


def test_token_grid():
    assert token_grid(256, (128, 128)) == (16, 16)
    assert token_grid(512, (64, 128)) == (16, 32)
    assert token_grid(23 * 30, (90, 120)) == (23, 30)
    assert token_grid(7, (1, 9)) == (1, 7)


def test_heads_that_no_projection_makes_equal():
    with pytest.raises(ValueError, match="projection none needs equal heads, got 3 and 2"):
        AttentionKL(make_task(), projection="none")
