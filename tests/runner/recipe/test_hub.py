"""Weights that a recipe names on the Hub, as its offline cache has them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from segkd.datasets.synthetic import Synthetic
from segkd.models.pspnet import PSPNet
from segkd.runner.building.missing import missing
from segkd.runner.building.networks import build_networks
from segkd.runner.recipe.hub import place_of
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.pretrained import from_pretrained
from segkd.runner.training.given import given_to

ARGS = {"backbone": "mobilenetv2_035", "width": 8}


@pytest.fixture
def teacher(hub):
    """A delivered network in user/repo, and another code's file of the same weights in its folder `files`."""
    network = PSPNet(8, **ARGS)
    save_file(network.state_dict(), hub / "model.safetensors")
    config = {"model": "pspnet", "args": ARGS, "num_classes": 8, "class_names": list(Synthetic().class_names)}
    (hub / "config.json").write_text(json.dumps(config))
    (hub / "files").mkdir()
    torch.save({"state_dict": network.state_dict()}, hub / "files/teacher.pth")
    return network


def distilled(weights):
    return {
        "data": {"dataset": "synthetic", "crop_size": [32, 32], "batch_size": 2},
        "networks": {"student": {"model": "pspnet", "args": ARGS}, "teacher": {"weights": weights, "train": False}},
        "losses": [{"loss": "cross_entropy"}, {"loss": "kl", "from": "teacher"}],
        "schedule": {"iterations": 2},
    }


def test_a_shared_student_teaches(hub, teacher):
    for weights in ("hf://user/repo", f"hf://user/repo@{hub.name}", "hf://user/repo/model.safetensors"):
        recipe = read(distilled(weights))
        assert (
            recipe.networks["teacher"].weights == weights
            and recipe.networks["teacher"].title == "pspnet mobilenetv2_035"
        )
        found = build_networks(recipe, Synthetic())["teacher"].state_dict()
        assert all(torch.equal(value, found[key]) for key, value in teacher.state_dict().items())
        assert list(given_to(recipe, {})) == ["the weights of networks.teacher"]
    assert recipe.networks["teacher"].continues == "model"
    assert torch.equal(from_pretrained("hf://user/repo").classifier.weight, teacher.classifier.weight)


def test_a_file_of_another_code(hub, teacher):
    assert place_of("hf://user/repo/files/teacher.pth") == hub / "files/teacher.pth"
    recipe = distilled("hf://user/repo/files/teacher.pth")
    recipe["networks"]["teacher"] |= {"model": "pspnet", "args": ARGS}
    assert read(recipe).networks["teacher"].model == "pspnet"
    assert str(place_of("runs/camvid")) == "runs/camvid"


def test_an_encoder_s_file(hub, teacher):
    state = {key.removeprefix("backbone."): x for key, x in teacher.state_dict().items() if key.startswith("backbone.")}
    save_file(state, hub / "files/encoder.safetensors")
    recipe = distilled("hf://user/repo")
    recipe["networks"]["student"]["args"] = ARGS | {"backbone_weights": "hf://user/repo/files/encoder.safetensors"}
    found = build_networks(read(recipe), Synthetic())["student"].backbone.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in state.items())
    assert [line for line in missing(read(recipe)) if "networks" in line] == []
    recipe["networks"]["student"]["args"]["backbone_weights"] += "x"
    (line,) = [line for line in missing(read(recipe)) if "networks" in line]
    assert line.startswith("weights   networks.student.args.backbone_weights: hf://") and "has no files/encoder" in line
    with pytest.raises(FileNotFoundError, match="networks.student.args.backbone_weights: hf://user/repo/files/enc"):
        build_networks(read(recipe), Synthetic())


@pytest.mark.parametrize("weights, told", [
    ("hf://user/other", "hf://user/other could not be had from the Hub"),
    ("hf://user/repo@v2", "could not be had from the Hub"),
    ("hf://user/repo/nothing.pth", "the Hub's user/repo has no nothing.pth"),
    ("hf://user/repo/../../../../x.pth", "the Hub's user/repo has no ../../../../x.pth"),
    ("hf://user", "is no address of weights; write hf://user/repo for a student's folder"),
])  # fmt: skip
def test_what_is_not_there(hub, teacher, weights, told):
    shutil.copy(hub / "model.safetensors", hub.parents[3] / "x.pth")
    with pytest.raises(RecipeError) as error:
        read(distilled(weights))
    assert told in str(error.value) and "networks.teacher.weights" in str(error.value)
