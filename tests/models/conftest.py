"""What several tests of networks compare and read."""

import pytest
import torch


@pytest.fixture(scope="session")
def same():
    """Whether two state dicts have the same entries, bit for bit."""

    def compare(one, two):
        return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)

    return compare
