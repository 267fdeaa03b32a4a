"""What tables call the networks of a recipe, what they go on from, and what is said where nothing names them."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from segkd.runner.recipe import parts
from segkd.runner.recipe.network import Network
from segkd.runner.recipe.read import read
from segkd.runner.recipe.told_by_weights import Told
from segkd.runner.run_folder.checkpoint import write_tensors


@pytest.mark.parametrize("title, fields", [
    ("deeplabv3 resnet18", {"model": "deeplabv3", "args": {"backbone": "resnet18"}}),
    ("trikd_tinyvit", {"model": "trikd_tinyvit"}),
    ("trikd_tinyvit 5m", {"model": "trikd_tinyvit", "args": {"variant": "5m"}}),
    ("stdc 2", {"model": "stdc", "args": {"variant": 2, "width": 64}}),
    ("ddrnet width 32", {"model": "ddrnet", "args": {"width": 32}}),
    ("sam vit_b", {"model": "sam", "args": {"arch": "vit_b"}}),
    ("deeplabv3 timm/convnext_tiny", {"source": "timm", "model": "convnext_tiny"}),
    ("pspnet timm/convnext_tiny", {"source": "timm", "model": "convnext_tiny", "args": {"head": "pspnet"}}),
    # as that one is delivered
    ("pspnet timm/convnext_tiny", {"model": "pspnet", "args": {"backbone": "timm/convnext_tiny"}}),
    ("nvidia/segformer-b0", {"source": "hf", "model": "nvidia/segformer-b0"}),
    ("huggingface segformer", {"model": "huggingface", "args": {"config": {"model_type": "segformer"}}}),
    ("average of student", {"ema_of": "student", "train": False}),
])  # fmt: skip
def test_titles(title, fields):
    assert Network(**fields).title == title


@pytest.mark.parametrize("model", [name for name in parts.names("models") if name != "huggingface"])
def test_titles_tell_sizes_apart(model):
    """Of every network, the choices it has of an encoder or a variant, and widths where it has neither."""
    known = parts.schema_of("models", model)["properties"]
    sizes = {key: known[key].get("enum") or ["resnet18", "resnet50"] for key in ("backbone", "arch") if key in known}
    sizes |= {"variant": known["variant"]["enum"]} if "variant" in known else {}
    [(key, choices)] = (sizes or {"width": [32, 64]}).items()
    of_each = [parts.completed_arguments("models", model, {key: choice}) for choice in choices]
    titles = [Network(model=model, args=arguments).title for arguments in of_each]
    assert len(set(titles)) == len(choices) > 1
    assert titles == [Told(model, arguments, certain=True).title for arguments in of_each]


def test_a_student_that_goes_on_from_a_run_does_not_learn_alone(tmp_path, monkeypatch):
    """However the run is named; a file of another code is a start like any other."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/kd"
    (folder / "student").mkdir(parents=True)
    (folder / "checkpoints/last").mkdir(parents=True)
    config = {"model": "pspnet", "args": {}, "num_classes": 2, "recipe": "teaching"}
    (folder / "student/config.json").write_text(json.dumps(config))
    (folder / "student/model.safetensors").touch()
    (folder / "recipe.yaml").touch()
    (tmp_path / "other.pth").touch()
    text = (
        "{data: {dataset: synthetic, crop_size: [32, 32], batch_size: 4}, schedule: {iterations: 2}, losses: [{loss: "
    )
    text += "cross_entropy}], networks: {student: {model: pspnet, args: {backbone: mobilenetv2_035}}}}"
    (tmp_path / "plain.yaml").write_text(text)
    for weights, method in [
        ("runs/kd", "after teaching"), ("runs/kd/student", "after teaching"), ("runs/kd/checkpoints/last", "after teaching"),
        ("runs/kd/student/model.safetensors", "after teaching"), ("{recipe: other.yaml}", "after other"),
        ("other.pth", "none"), ("random", "none"), ("null", "none"),
    ]:  # fmt: skip
        recipe = read("plain.yaml", [f"networks.student.weights={weights}"])
        assert (recipe.method_name, recipe.learns_alone) == (method, method == "none"), weights
    # a checkpoint that describes itself, of a run that has delivered nothing yet, and one that was moved
    for place in ("runs/longer.v2/checkpoints/last", "moved"):
        (tmp_path / place).mkdir(parents=True)
        write_tensors(tmp_path / place / "student.safetensors", {"a": torch.ones(1)}, config)
    (tmp_path / "runs/longer.v2/recipe.yaml").touch()
    (tmp_path / "checkpoints").mkdir()  # anybody's folder for files of weights
    write_tensors(tmp_path / "checkpoints/city.safetensors", {"a": torch.ones(1)}, config)
    exported = {key: config[key] for key in ("model", "args")} | {"normalize": "unit"}
    torch.save({"meta": {"segkd": exported}, "state_dict": {"a": torch.ones(1)}}, tmp_path / "theirs.pth")
    for weights, method in [
        ("runs/longer.v2/checkpoints/last", "after longer.v2"), ("moved", "after moved"),
        ("checkpoints/city.safetensors", "after city"), ("theirs.pth", "after theirs"),
    ]:  # fmt: skip
        assert read("plain.yaml", [f"networks.student.weights={weights}"]).method_name == method


def test_weights_that_tell_no_network_are_told_as_what_they_are(tmp_path):
    """Of a network without a model, for whose sake nobody reads what the weights' own loader would say."""
    (tmp_path / "published").mkdir()
    (tmp_path / "published/config.json").write_text('{"model_type": "segformer"}')
    save_file({"weight": torch.ones(1)}, tmp_path / "published/model.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.pth")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/recipe.yaml").touch()
    recipe = SimpleNamespace(networks={}, losses=[])
    for weights, told in (
        ("published", f"is a network of transformers; in place of weights write source: hf and model: {tmp_path}/publ"),
        ("published/model.safetensors", f"write source: hf and model: {tmp_path}/published"),
        ("list.pth", "list.pth holds no state dict"),
        ("other.pth", r"other.pth tells no network \(is of none that is known\); name its model: \(one of bare_enc"),
        ("unfinished", r"tells no network \(its run has not finished\); name its model: and args:"),
        ("oter.pth", "there is no .*/oter.pth, did you mean '.*/other.pth'"),
    ):
        mistake, *_ = Network(weights=str(tmp_path / weights)).wrong("teacher", recipe)
        assert mistake[0] == ("weights",) and re.search(told, mistake[1]), mistake
    mistake, *_ = Network(source="hf", args={"config": {"model_type": "segformer"}}).wrong("teacher", recipe)
    assert "args.config goes with model: huggingface" in mistake[1]
