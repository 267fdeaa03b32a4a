"""Hadamard matrices of the widths of networks, and what stands in where there is none."""

import pytest
import torch

from segkd.losses._hadamard import hadamard


@pytest.mark.parametrize("size", [1, 2, 12, 28, 36, 384, 768, 1152])
def test_orthogonal_with_entries_of_one_size(size):
    matrix = hadamard(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, size**-0.5))


@pytest.mark.parametrize("size", [3, 6, 92])
def test_a_rotation_where_there_is_none(size):
    torch.manual_seed(0)
    matrix = hadamard(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
    torch.manual_seed(0)
    assert torch.equal(matrix, hadamard(size))
