"""Relations between rows: products and divergences made a block of rows at a time, and where a norm is 0."""

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._relations import gram_distance, inverse_norm, row_divergence, row_gram


@pytest.mark.parametrize("rows", [3, 4, 7])
def test_row_gram_is_the_product_in_any_number_of_blocks_with_its_gradient(rows):
    x = torch.randn(2, rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(rows), requires_grad=True)
    torch.testing.assert_close(row_gram(x, block=3), torch.einsum("bin,bjn->bij", x, x))
    assert torch.autograd.gradcheck(lambda x: row_gram(x, block=3), x)


@pytest.mark.parametrize("nodes", [3, 40])
def test_distance_of_grams_has_one_value_in_both_forms(nodes):
    student, teacher = (torch.randn(2, channels, nodes, dtype=torch.float64) for channels in (3, 5))
    grams = [torch.einsum("bci,bcj->bij", x, x) for x in (student, teacher)]
    torch.testing.assert_close(gram_distance(student, teacher), (grams[0] - grams[1]).square().sum())


@pytest.mark.parametrize("block", [1, 5, 7, 100])
def test_blocks_of_rows_change_nothing(block):
    rows, keys, others = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (7, 6, 7))
    value = row_divergence(rows, keys, others, keys.detach(), block=block)
    wanted = F.kl_div((rows @ keys.T).log_softmax(1), (others @ keys.T).softmax(1).detach(), reduction="sum")
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(torch.autograd.grad(value, (rows, keys)), torch.autograd.grad(wanted, (rows, keys)))


def test_inverse_norm_of_nothing_is_nothing():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]], requires_grad=True)
    inverse = inverse_norm(x, 1)
    torch.testing.assert_close(inverse, torch.tensor([[0.2], [0.0], [0.0]]))
    inverse.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[-3 / 125, -4 / 125], [0.0, 0.0], [0.0, 0.0]]))
