"""ICKD's Gram matrices, made a block of rows at a time."""

import pytest
import torch

from segkd.losses._relations import row_gram


@pytest.mark.parametrize("rows", [3, 4, 7])
def test_row_gram_is_the_product_in_any_number_of_blocks_with_its_gradient(rows):
    x = torch.randn(2, rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(rows), requires_grad=True)
    torch.testing.assert_close(row_gram(x, block=3), torch.einsum("bin,bjn->bij", x, x))
    assert torch.autograd.gradcheck(lambda x: row_gram(x, block=3), x)
