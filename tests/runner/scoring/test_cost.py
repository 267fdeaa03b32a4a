"""What a network costs: parameters, and times of networks in turn."""

import importlib

import pytest
import torch

from segkd.runner.scoring.cost import Timing, in_turn, parameters, peak_since, resident_memory


def test_networks_take_turns():
    order = []
    times = in_turn([lambda images: order.append("a"), lambda images: order.append("b")], torch.zeros(1), 3)
    assert order == ["a", "b"] * 5 and [len(taken) for taken in times] == [3, 3], "two of each are not counted"


def test_median_and_what_95_of_100_do_not_exceed():
    timing = Timing.of([float(value) for value in range(1, 101)])
    assert timing == Timing(50.5, 96.0)
    assert Timing.of([2.0]) == Timing(2.0, 2.0)


def test_memory_is_what_came_on_top():
    before = resident_memory()
    if before is not None:  # Linux
        block = torch.ones(16 * 2**20)  # 64 MiB
        del block
        assert 60 * 2**20 < peak_since(before) < 100 * 2**20


@pytest.mark.parametrize("module, name, heads", [
    ("pidnet", "PIDNet", {"aux_head", "boundary_head"}),
    ("bisenetv2", "BiSeNetV2", {"aux_heads"}),
    ("pspnet", "PSPNet", {"aux_head"}),
])  # fmt: skip
def test_heads_that_only_losses_read_are_not_counted(module, name, heads):
    network = getattr(importlib.import_module(f"segkd.models.{module}"), name)(5, aux=True).to("meta")
    read = [one.numel() for key, one in network.named_parameters() if key.split(".")[0] not in heads]
    assert 0 < len(read) < len(list(network.parameters())) and parameters(network) == sum(read)
