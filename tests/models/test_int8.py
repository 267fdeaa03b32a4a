"""Rounded layers compute what INT8 computes, learn through it, and are float layers again afterwards."""

import copy

import pytest
import torch
from torch import nn

from segkd.models._int8 import MOMENTUM, in_float, simulate_int8


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def test_a_layer_computes_as_integers_would():
    layer, x = nn.Linear(3, 2), torch.tensor([[-1.0, 0.3, 2.0]])
    integers = torch.tensor([[127, -64, 3], [5, 127, -127]])
    with torch.no_grad():
        layer.weight.copy_(
            integers * torch.tensor([[0.01], [0.5]]) + torch.tensor([[0.0, 0.004, -0.004], [0.2, 0.0, 0.0]])
        )
    simulate_int8(layer)(x)
    scale = 3 / 255  # from -1 to 2
    zero = round(1 / scale)
    steps = [round(value / scale) + zero for value in x[0].tolist()]
    assert min(steps) == 0 and max(steps) == 255
    inputs = torch.tensor([(step - zero) * scale for step in steps])
    expected = (integers * torch.tensor([[0.01], [0.5]])) @ inputs + layer.bias
    torch.testing.assert_close(layer.eval()(x)[0], expected)


def test_gradients_pass_but_for_what_lies_outside_of_the_range():
    layer = simulate_int8(nn.Linear(3, 1, bias=False))
    layer(torch.tensor([[-1.0, 0.3, 2.0]]))
    x = torch.tensor([[-3.0, 0.3, 1.0]], requires_grad=True)
    layer.eval()(x).sum().backward()
    assert x.grad[0, 0] == 0 and torch.allclose(x.grad[0, 1:], layer.weight[0, 1:])
    parameter = dict(layer.named_parameters())["weight"]
    assert torch.allclose(parameter.grad, torch.tensor([[-1.0, 0.3, 1.0]]), atol=3 / 255)


def test_ranges_follow_the_batches_in_training_alone():
    layer = simulate_int8(nn.Linear(1, 1))
    layer(torch.tensor([[1.0], [4.0]]))
    assert layer.input_range.tolist() == [0, 4], "zero is always one of the steps"
    layer(torch.tensor([[-2.0], [8.0]]))
    assert layer.input_range.tolist() == pytest.approx([-2 * MOMENTUM, 4 + 4 * MOMENTUM])
    layer.eval()(torch.tensor([[100.0]]))
    assert layer.input_range[1] < 5


def test_keys_stay_and_the_float_network_comes_back():
    network, plain = simulate_int8(made()), made()
    assert network.state_dict().keys() - plain.state_dict().keys() == {"0.input_range", "3.input_range"}
    images = torch.rand(2, 3, 4, 4)
    assert torch.allclose(network.eval()(images), plain(images), atol=0.05), "a range of nothing rounds no input"
    rounded = network.train()(images)
    assert not torch.equal(rounded, plain(images)) and torch.allclose(rounded, plain(images), atol=0.05)
    again = copy.deepcopy(network)
    assert torch.equal(again(images), network(images))
    ranges = in_float(network)
    assert torch.equal(network(images), plain(images)) and ranges["0"] == (0.0, images.max().item())
    assert type(network[0]) is nn.Conv2d and network.state_dict().keys() == plain.state_dict().keys()
    assert in_float(plain) == {}
