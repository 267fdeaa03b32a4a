"""Every recipe under recipes/ reads; what it builds on exists, its parts build, its terms find what they read."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from segkd.runner import parts
from segkd.runner.assembly import build_graph, build_views
from segkd.runner.graph import Views
from segkd.runner.optimizers import build_optimizers
from segkd.runner.reading import read
from segkd.runner.recipe import OtherRecipe

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").rglob("*.yaml"))


def others(recipe):
    """The recipes a recipe asks to be run before it: network name (or None for the baseline) -> recipe."""
    wanted = {name: network.weights for name, network in recipe.networks.items()} | {None: recipe.baseline}
    return {name: read(value.recipe) for name, value in wanted.items() if isinstance(value, OtherRecipe)}


def graph_of(recipe):
    """The recipe's graph, its networks without weights, without memory and without arithmetic."""
    dataset = parts.find("datasets", recipe.data.dataset)
    num_classes = getattr(dataset, "num_classes", 7)
    networks = {}
    with torch.device("meta"):
        for name, network in recipe.networks.items():
            if network.ema_of is not None:
                continue
            arguments = network.args | {
                key: value for key, value in (("pretrained", False), ("backbone_weights", None)) if key in network.args
            }
            model, arguments = parts.network_part(network.source, network.model, arguments)
            networks[name] = parts.build("models", model, arguments, num_classes)
        return build_graph(recipe, networks, 255)


def test_there_are_recipes():
    assert "quickstart" in {file.stem for file in RECIPES}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe(file, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for the meta device
    recipe = read(file)
    build_views(recipe)
    graph = graph_of(recipe)
    assert [term.label for term in graph.terms] == [term.label for term in recipe.losses if term.weight != 0]
    assert build_optimizers(recipe, graph)
    # every network makes the features that the losses have asked it for
    images = torch.zeros(2, 3, *recipe.data.crop_size, dtype=torch.uint8, device="meta")
    views = Views(images, images[:, 0], images, images[:, 0] > 0)
    found = graph.train().predictions(images, views, recipe.schedule.iterations - 1)
    for (name, _), prediction in found.items():
        assert set(prediction.features) == graph.network(name).features_wanted
        assert prediction.logits.shape[:2] == (2, graph.network(name).num_classes)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_that_a_recipe_needs(file):
    recipe = read(file)
    for name, other in others(recipe).items():
        assert other.data.dataset == recipe.data.dataset and other.folder != recipe.folder
        if name is None:
            # a baseline is the same student without a teacher
            assert other.networks["student"] == recipe.networks["student"] and other.schedule == recipe.schedule
        else:
            # a teacher's recipe trains the network it is loaded into
            trained, here = other.networks["student"], recipe.networks[name]
            assert (trained.model, trained.normalize) == (here.model, here.normalize)
            shaping = {key for key in here.args if key not in ("pretrained", "backbone_weights", "dropout")}
            assert {key: trained.args[key] for key in shaping} == {key: here.args[key] for key in shaping}


def test_names_are_told_apart():
    names = [read(file).name for file in RECIPES]
    assert len(names) == len(set(names))
