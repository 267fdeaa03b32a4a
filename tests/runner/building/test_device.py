"""How networks are made ready for the device of a run."""

import pytest
import torch
from accelerate import Accelerator

from segkd.runner.building.device import prepare_for_device
from segkd.runner.building.graph import Graph
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Recipe

NETWORK = {"model": "pspnet", "args": {"backbone": "mobilenetv2_035", "width": 8}}


@pytest.mark.parametrize("channels_last", [True, False])
def test_maps_are_in_the_memory_format_that_the_recipe_says(channels_last):
    recipe = Recipe(
        name="formats",
        data={"dataset": "synthetic", "crop_size": (32, 32), "batch_size": 2},
        networks={"student": NETWORK},
        losses=[{"loss": "cross_entropy", "label": "ce"}],
        schedule={"iterations": 1},
        loop={"channels_last": channels_last},
    )
    network = parts.build("models", NETWORK["model"], NETWORK["args"], 8)
    prepare_for_device(Graph({"student": network}, {}, recipe.losses, {}), recipe, Accelerator(cpu=True))
    network.features_wanted = set(network.channels)
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8).permute(0, 3, 1, 2)  # as they are loaded
    maps = [value for value in network(images).features.values() if min(value.shape[1:]) > 1]
    formats = [(one.is_contiguous(memory_format=torch.channels_last), one.is_contiguous()) for one in maps]
    assert formats and set(formats) == {(channels_last, not channels_last)}
