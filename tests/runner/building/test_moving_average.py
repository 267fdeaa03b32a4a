"""A moving average against its formula, and against torch's."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segkd.runner.building.moving_average import MovingAverage


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.9996, 0.9999])
def test_places_in_tables_are_not_averaged(decay):
    """In float32 5 * 0.9996 + 5 * 0.0004 is a little less than 5, and cut off it is 4."""
    network = nn.BatchNorm1d(3)
    network.register_buffer("places", torch.arange(1000))
    average = MovingAverage(network, decay)
    network.places.copy_(torch.arange(1000).flip(0))
    average.update(network)  # a copy
    expected = 1.0
    for value in (3.0, 4.0):
        nn.init.constant_(network.weight, value)
        average.update(network)
        expected = decay * expected + (1 - decay) * value
    assert torch.equal(average.module.places, network.places)
    assert average.module.weight.tolist() == pytest.approx([expected] * 3)


def test_it_has_the_bits_of_torchs_and_reads_its_checkpoints():
    draws = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(4, 7, dtype=torch.float64))
    ours, theirs = MovingAverage(network, 0.997), AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.997))
    for step in range(5):
        for value in network.parameters():
            value.data = torch.randn(value.shape, generator=draws, dtype=value.dtype)
        ours.update(network)
        theirs.update_parameters(network)
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items()), step
    again = MovingAverage(network, 0.997)
    again.load_state_dict(theirs.state_dict())
    assert again.n_averaged == 5 and again.state_dict().keys() == theirs.state_dict().keys()
