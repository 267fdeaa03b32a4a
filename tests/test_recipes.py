"""Every recipe under recipes/ reads, from any folder; what it builds on exists, its parts build and fit together."""

import functools
import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from segkd.models import huggingface
from segkd.runner.building.optimizers import build_optimizers
from segkd.runner.building.shapes import shape_graph, shape_predictions
from segkd.runner.loading.data_sets import build_views
from segkd.runner.recipe import parts
from segkd.runner.recipe.addresses import Source
from segkd.runner.recipe.parts import network_part
from segkd.runner.recipe.read import read
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.recipes import shipped

ROOT = Path(__file__).parents[1]
RECIPES = shipped()
RECORDED = json.loads((ROOT / "tests/golden/recipes.json").read_text())
# what the hub would tell of the networks that recipes take from there, but for their depth
HUB = {"nvidia/segformer-b5-finetuned-cityscapes-1024-1024": {
    "model_type": "segformer", "num_labels": 19, "depths": [1, 1, 1, 1], "decoder_hidden_size": 256,
}}  # fmt: skip
# what the networks of two recipes may differ in and still be one network to whoever loads its weights
FREE = {"pretrained", "backbone_weights", "dropout", "projection_dropout", "distill_heads"}


@pytest.fixture(autouse=True, scope="module")
def elsewhere(tmp_path_factory):
    """Nothing here may depend on where a recipe is read from."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True, scope="module")
def hub():
    """The configurations of HUB in place of those there."""
    with pytest.MonkeyPatch.context() as patch:
        theirs = huggingface.read_config
        patch.setattr(huggingface, "read_config", lambda name, *rest: theirs("", None, HUB.get(name, *rest[1:])))
        yield


each_recipe = pytest.mark.parametrize("file", [pytest.param(file, id=name) for name, file in RECIPES.items()])
recipe_in = functools.cache(read)  # most teachers and baselines are asked for several times
tried = set()  # the forward passes that have been made: most recipes share their networks with others


@functools.cache
def said(file):
    """What a recipe's file itself says."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def extended(file):
    """The files a recipe builds on, the nearest first."""
    if "extends" not in said(file):
        return []
    base = file.parent / said(file)["extends"]
    return [base, *extended(base)]


def others(recipe):
    """The recipes a recipe asks to be run before it: network name (or None for the baseline) -> recipe."""
    wanted = {name: network.weights for name, network in recipe.networks.items()} | {None: recipe.baseline}
    return {
        name: recipe_in(Path(value.recipe).resolve())
        for name, value in wanted.items()
        if isinstance(value, OtherRecipe)
    }


def forwards(recipe, graph):
    """Network by network, as text, all that the shapes of a forward pass depend on."""
    for name, network in recipe.networks.items():
        entry = recipe.networks[network.ema_of or name]
        wanted = sorted(graph.network(name).features_wanted), graph.network(name).aux_wanted
        yield repr((entry.model, entry.args, entry.train, network.prompted_by, wanted, recipe.data.crop_size))


def test_there_are_recipes():
    assert "quickstart" in RECIPES


@each_recipe
def test_a_recipe_builds_on_two_files_at_most(file):
    assert len(extended(file)) <= 2


@each_recipe
def test_no_recipe_spells_the_name_that_its_path_says(file):
    inherits = any("name" in said(base) for base in extended(file))
    assert inherits or said(file).get("name") != Source(file).default_name


@each_recipe
def test_recipe(file):
    recipe = recipe_in(file)
    build_views(recipe)
    graph = shape_graph(recipe)
    assert [term.label for term in graph.terms] == [term.label for term in recipe.losses if term.weight != 0]
    assert build_optimizers(recipe, graph)
    new = {*forwards(recipe, graph)} - tried
    tried.update(new)
    if not new:
        return
    # every network makes the features that the losses have asked it for
    for (name, _), prediction in shape_predictions(graph, recipe).items():
        network = graph.network(name)
        assert set(prediction.features) == network.features_wanted
        assert prediction.logits is None or prediction.logits.shape[:2] == (2, network.num_classes)
        assert (prediction.logits is not None) == network.gives_logits


def shape_of(network):
    """The arguments that decide which weights fit a network."""
    return {key: value for key, value in network.args.items() if key not in FREE}


@each_recipe
def test_recipes_that_a_recipe_needs(file):
    recipe = recipe_in(file)
    for name, other in others(recipe).items():
        assert other.data.dataset == recipe.data.dataset and other.folder != recipe.folder
        trained, here = other.networks["student"], recipe.networks[name or "student"]
        if here.has_head and not trained.has_head:  # a first stage: its encoder alone is taken
            encoders = [network_part(one.source, one.model, one.args)[1]["backbone"] for one in (trained, here)]
            assert encoders[0] == encoders[1]
            continue
        assert (trained.source, trained.model, trained.normalize) == (here.source, here.model, here.normalize)
        assert shape_of(trained) == shape_of(here)
        if name is None:
            # a baseline is the same student, trained as long on the same images and scored in the same way
            assert other.schedule == recipe.schedule
            scoring = {"every", "also"}
            assert other.evaluate.model_dump(exclude=scoring) == recipe.evaluate.model_dump(exclude=scoring)
            assert [term.loss for term in other.losses if term.source is not None] == []


def test_names_are_told_apart():
    names = [recipe_in(file).name for file in RECIPES.values()]
    assert len(names) == len(set(names))


# fields of the schema that are younger than tests/golden/recipes.json
ADDED_SINCE = {
    "evaluate": ("metrics", "fit_corners", "patience"),
    "data": ("allow_overlap", "max_pixels", "cache", "cache_folder", "extra", "tuning_part", "test_split"),
    "schedule": ("hours", "seconds", "measured"),
    "networks.*": ("cache", "precision", "compile", "input_scale", "int8"),
}
ADDED_AT_THE_TOP = ("tuned",)
ADDED_TO_UNLABELLED = ("shards", "shuffle")
# and arguments of views and losses
ADDED_TO_TRANSFORM = ("flip_vertical", "quarter_turns", "rotation")
ADDED_TO_LOSSES = {"kl": ("standardize", "eps"), "cross_entropy": ("scores", "ohem_min_share"),
                   "cirkd_channel": ("gather",)}  # fmt: skip
ADDED_TO_NETWORKS = {"deeplabv3plus": ("head_init",)}


def meaning_of(name: str) -> str:
    """SHA-256 of a recipe's resolved values, but for the fields above."""
    values = read(f"recipes/{name}.yaml").model_dump(mode="json", by_alias=True)
    for field in ADDED_AT_THE_TOP:
        del values[field]
    for place, fields in ADDED_SINCE.items():
        section, _, each = place.partition(".")
        for one in values[section].values() if each else [values[section]]:
            for field in fields:
                del one[field]
    for field in ADDED_TO_UNLABELLED if values["data"]["unlabelled"] else ():
        del values["data"]["unlabelled"][field]
    for section in filter(None, (values["data"], values["data"]["unlabelled"])):
        for argument in ADDED_TO_TRANSFORM:
            del section["transform"][argument]
    for term in values["losses"]:
        for argument in ADDED_TO_LOSSES.get(term["loss"], ()):
            del term["args"][argument]
    for network in values["networks"].values():
        for argument in ADDED_TO_NETWORKS.get(network["model"], ()):
            network["args"].pop(argument, None)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_means_what_it_meant(name, monkeypatch):
    """The first digits of its values' SHA-256 were recorded; a change of meaning is one on purpose."""
    monkeypatch.chdir(ROOT)
    assert meaning_of(name).startswith(RECORDED[name]), f"{name} means something else than when it was recorded"


@pytest.mark.parametrize("name", RECIPES)
def test_splits_are_those_of_the_data_set(name):
    data = recipe_in(RECIPES[name]).data
    known = getattr(sys.modules[parts.find("datasets", data.dataset).__module__], "SPLITS", None)
    for split in filter(None, (data.train_split, data.val_split, data.test_split)):
        assert known is None or split in known, f"{split} is none of {', '.join(known)}"
