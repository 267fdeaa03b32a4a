"""The attention term against interpolation and torch's own KL on whole maps."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses import attention_kl
from segkd.losses._task import Features, Task
from segkd.losses.attention_kl import AttentionKL, stretch_grid, token_grid


def make_task(student=3, teacher=2):
    heads = {"student": student, "teacher": teacher}
    return Task(4, 255, *(Features(owner, {"attention": number}, {}) for owner, number in heads.items()))


def maps(seed, *shape, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prediction(attention, size=(4, 4)):
    logits = torch.zeros(1, 4, *size)
    return SimpleNamespace(logits=logits, aux=None, align_corners=True, features={"attention": attention})


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
    value = loss(prediction(student), prediction(teacher), None)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_row_of_plain_numbers():
    student, teacher = maps(0, 1, 1, 3, 3), maps(1, 1, 1, 3, 3)
    total = 0.0
    for s, t in zip(student[0, 0].tolist(), teacher[0, 0].tolist(), strict=True):
        q, p = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (s, t))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    loss = AttentionKL(make_task(1, 1), projection="none")
    assert loss(prediction(student), prediction(teacher), None).item() == pytest.approx(total / 9, rel=1e-12)


@pytest.mark.parametrize("block", [1, 50, 10**6])
def test_blocks_change_nothing(monkeypatch, block):
    student, teacher = maps(0, 2, 2, 4, 4).requires_grad_(), maps(1, 2, 2, 6, 6)
    loss = AttentionKL(make_task(2, 2), projection="none")
    monkeypatch.setattr(attention_kl, "BLOCK", block)
    value = loss(prediction(student), prediction(teacher), None)
    assert value.item() == pytest.approx(literal(student, teacher).item(), rel=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(value, student), torch.autograd.grad(literal(student, teacher), student)
    )


@pytest.mark.parametrize("stretch", ["flat", "grid"])
def test_gradcheck(stretch):
    student, teacher = maps(0, 1, 2, 2, 2).requires_grad_(), maps(1, 1, 1, 6, 6).requires_grad_()
    loss = AttentionKL(make_task(2, 1), stretch=stretch).double()
    small, large = (1, 2), (2, 3)
    weight = loss.projection.weight
    assert torch.autograd.gradcheck(
        lambda s, w: loss(prediction(s, small), prediction(teacher, large), None), (student, weight)
    )
    loss(prediction(student, small), prediction(teacher, large), None).backward()
    assert teacher.grad is None


def test_grid_resizes_queries_and_keys_in_place():
    """A map whose score is f(query) + g(key), each linear in the place: the resized one is the same function."""

    def plane(h, w):
        y, x = torch.linspace(0, 1, h, dtype=torch.float64), torch.linspace(0, 1, w, dtype=torch.float64)
        return (2 * y[:, None] - x).flatten(), (y[:, None] + 3 * x).flatten()

    def scores(h, w):
        f, g = plane(h, w)
        return (f[:, None] + g)[None]

    torch.testing.assert_close(stretch_grid((2, 3), (4, 7))(scores(2, 3)), scores(4, 7))
    loss = AttentionKL(make_task(1, 1), projection="none", stretch="grid")
    value = loss(prediction(scores(2, 3)[None], (20, 30)), prediction(scores(4, 7)[None], (40, 70)), None)
    assert value.item() == pytest.approx(0, abs=1e-12)


def test_token_grid():
    assert token_grid(256, (128, 128)) == (16, 16)
    assert token_grid(512, (64, 128)) == (16, 32)
    assert token_grid(23 * 30, (90, 120)) == (23, 30)
    assert token_grid(7, (1, 9)) == (1, 7)


def test_zero_for_equal_maps_and_finite_for_constant_ones():
    loss = AttentionKL(make_task(2, 2), projection="none")
    same = maps(0, 2, 2, 5, 5)
    assert loss(prediction(same), prediction(same), None).item() == pytest.approx(0, abs=1e-15)
    student = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss(prediction(student), prediction(torch.full((1, 2, 4, 4), 300.0)), None).backward()
    assert student.grad.abs().max() < 1e-6


def test_half_types_are_raised_and_autocast_stays_out():
    student, teacher = maps(0, 2, 3, 4, 4).bfloat16(), maps(1, 2, 2, 6, 6).bfloat16()
    loss = AttentionKL(make_task())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(prediction(student), prediction(teacher), None)
    assert value.dtype == torch.float32
    wanted = literal(loss.projection(student.float()), teacher.float())
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="projection none needs equal heads, got 3 and 2"):
        AttentionKL(make_task(), projection="none")
    with pytest.raises(ValueError, match="student has no feature 'neck'; it has: attention"):
        AttentionKL(make_task(), feature="neck")
    with pytest.raises(ValueError, match="a teacher is needed"):
        AttentionKL(Task(4, 255, Features("student", {"attention": 3}, {})))
