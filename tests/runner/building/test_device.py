"""How networks are made ready for the device of a run."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from segkd.runner.building import device
from segkd.runner.building.device import prepare_for_device, start_accelerator
from segkd.runner.building.graph import Graph
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Recipe

NETWORK = {"model": "pspnet", "args": {"backbone": "mobilenetv2_035", "width": 8}}


def recipe_with(**loop) -> Recipe:
    return Recipe(
        name="devices",
        data={"dataset": "synthetic", "crop_size": (32, 32), "batch_size": 2},
        networks={"student": NETWORK},
        losses=[{"loss": "cross_entropy", "label": "ce"}],
        schedule={"iterations": 1},
        loop=loop,
    )


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of CPUs")
@pytest.mark.parametrize("slow", [True, False])
def test_a_precision_that_this_processor_lacks_is_warned_of(monkeypatch, slow):
    monkeypatch.setattr(device, "takes_longer", lambda precision, where: slow and precision == "bf16")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start_accelerator(recipe_with(precision="fp32"))
        start_accelerator(recipe_with(precision="bf16"))
    told = [str(one.message) for one in caught if "loop.precision" in str(one.message)]
    assert len(told) == slow and all("no instructions for bf16" in one and "=fp32" in one for one in told)


@pytest.mark.parametrize("words, told", [
    ({"LOCAL_WORLD_SIZE": "4"}, "4 processes were started on a machine with 2 GPUs, and each needs one of its own"),
    ({"LOCAL_WORLD_SIZE": "2"}, None),
    ({}, None),
    ({"LOCAL_WORLD_SIZE": "4", "ACCELERATE_USE_CPU": "true"}, None),
])  # fmt: skip
def test_more_processes_than_gpus_are_refused(monkeypatch, words, told):
    class Started(Exception):
        """All was looked at."""

    def started(**settings):
        raise Started

    for name, value in words.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device, "Accelerator", started)
    with pytest.raises(Started if told is None else ValueError, match=told):
        start_accelerator(recipe_with())


@pytest.mark.parametrize("channels_last", [True, False])
def test_maps_are_in_the_memory_format_that_the_recipe_says(channels_last):
    recipe = recipe_with(channels_last=channels_last)
    network = parts.build("models", NETWORK["model"], NETWORK["args"], 8)
    prepare_for_device(Graph({"student": network}, {}, recipe.losses, {}), recipe, Accelerator(cpu=True))
    network.features_wanted = set(network.channels)
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8).permute(0, 3, 1, 2)  # as they are loaded
    maps = [value for value in network(images).features.values() if min(value.shape[1:]) > 1]
    formats = [(one.is_contiguous(memory_format=torch.channels_last), one.is_contiguous()) for one in maps]
    assert formats and set(formats) == {(channels_last, not channels_last)}


def test_processes_on_cpus_keep_batch_norms_of_their_own_and_are_told_so():
    recipe = recipe_with(sync_batchnorm=True)
    graph = Graph({"student": parts.build("models", NETWORK["model"], NETWORK["args"], 8)}, {}, recipe.losses, {})
    two = SimpleNamespace(
        num_processes=2, device=torch.device("cpu"), is_main_process=True, ddp_handler=SimpleNamespace()
    )
    with pytest.warns(UserWarning, match="loop.sync_batchnorm is for GPUs; on CPUs .* its own images alone"):
        prepare_for_device(graph, recipe, two)
    assert not any(isinstance(part, torch.nn.SyncBatchNorm) for part in graph.modules())
