"""Mask classification against the plain formula; test_huggingface.py has it beside transformers' own inference."""

import pytest
import torch

from segkd.models._universal import dense_logits


def queries(dtype=torch.float32, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    classes = torch.randn(2, 7, 5 + 1, generator=draw, dtype=torch.float64) * scale
    masks = torch.randn(2, 7, 6, 8, generator=draw, dtype=torch.float64) * 3 * scale
    return classes.to(dtype), masks.to(dtype)


def masses(classes, masks):
    """(B, K, h, w), one query after the other."""
    total = 0
    for q in range(classes.shape[1]):
        total = total + classes.softmax(-1)[:, q, :-1, None, None] * masks[:, q].sigmoid()[:, None]
    return total


def test_the_exponential_is_the_mass():
    classes, masks = queries(torch.float64)
    expected = masses(classes, masks)
    logits = dense_logits(classes, masks)
    torch.testing.assert_close(logits.exp(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(logits.softmax(1), expected / expected.sum(1, keepdim=True), rtol=1e-12, atol=0)


def test_gradients():
    classes, masks = (x.requires_grad_() for x in queries(torch.float64))
    assert torch.autograd.gradcheck(dense_logits, (classes, masks[:, :, :2, :2]))


def test_unlikely_classes_and_empty_pixels_keep_their_value_and_gradient():
    classes, masks = queries(torch.float64)
    masks = masks - 150  # no query claims any pixel: each sigmoid is far below float32's smallest number
    classes[..., 2] -= 60
    exact = masses(classes, masks).log()
    ours = dense_logits(classes.float(), masks.float().requires_grad_())
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-4)
    (gradient,) = torch.autograd.grad(ours[:, 2].sum(), classes.float().requires_grad_(), allow_unused=True)
    assert gradient is None  # another tensor: the graph hangs on the arguments only
    learned = classes.float().requires_grad_()
    dense_logits(learned, masks.float())[:, 2].sum().backward()
    assert (learned.grad[..., 2] > 1e-3).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_raised(dtype):
    classes, masks = queries(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        logits = dense_logits(classes, masks)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, dense_logits(classes.float(), masks.float()))
