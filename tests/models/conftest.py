"""What several tests of networks compare and read."""

import pytest
import torch


@pytest.fixture(scope="session")
def images():
    """Makes the same images of a size whenever it is asked, uint8."""

    def make(batch=2, height=65, width=97):
        generator = torch.Generator().manual_seed(0)
        return torch.randint(256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)

    return make


@pytest.fixture(scope="session")
def same():
    """Whether two state dicts have the same entries, bit for bit."""

    def compare(one, two):
        return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)

    return compare
