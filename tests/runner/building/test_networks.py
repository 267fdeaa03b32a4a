"""Networks of a recipe with weights of other codes, of other classes, with other constants, and files with code."""

import json
import logging
import re

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import save_file
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from segkd.models import _checkpoints
from segkd.models._backbones import build_backbone
from segkd.models._checkpoints import write
from segkd.models._class_map import ClassMapped
from segkd.models._prediction import Normalize
from segkd.runner.building.delivered import Delivered, write_folder
from segkd.runner.building.networks import build_network, build_networks, random_starts
from segkd.runner.recipe import parts
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.network import Network
from segkd.runner.recipe.read import read
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.run_folder.pretrained import description, from_pretrained
from segkd.runner.run_folder.weights import find_weights

IMAGES = torch.randint(0, 256, (2, 3, 33, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
# each as its code builds it
CIRKD = {"backbone": "resnet18", "stem": "v1s", "dilation_rule": "cirkd", "width": 8, "level_width": 128,
         "output_stride": 8, "align_corners": True}  # fmt: skip
MMSEG = {"backbone": "resnet18", "stem": "v1c", "dilation_rule": "mmseg", "width": 8, "output_stride": 8}
SMALL = {"model": "pspnet", "args": {"backbone": "mobilenetv2_035", "width": 8}}
OURS = ["Road", "Sky", "Tree"]


@pytest.fixture
def built(tmp_path, monkeypatch):
    """build_network of `teacher` as an entry of a recipe says, for the classes OURS."""
    monkeypatch.chdir(tmp_path)

    def build(classes=OURS, trust=False, seed=0, **entry):
        recipe = {
            "name": "a",
            "data": {"dataset": "synthetic", "crop_size": [32, 32]},
            "networks": {
                "student": SMALL,
                "teacher": {"model": "pspnet", "train": False, "weights": "random", **entry},
            },
            "losses": [{"loss": "cross_entropy"}],
            "schedule": {"iterations": 1},
        }
        if entry.get("train"):
            recipe["losses"].append({"loss": "cross_entropy", "of": "teacher", "label": "its"})
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        network = read(tmp_path / "recipe.yaml").networks["teacher"]
        return build_network("teacher", network, len(classes), seed, classes, trust=trust)

    return build


@torch.no_grad()
def logits(network):
    return network.eval()(IMAGES).logits


def with_statistics(network):
    """The network with running statistics of its own, so that a buffer that was not loaded shows."""
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.copy_(torch.rand(part.running_mean.shape, generator=generator))
    return network


@pytest.mark.parametrize("layout, arguments, normalize", [
    ("mmseg", MMSEG, "imagenet"), ("cirkd", CIRKD, "cirkd")
])  # fmt: skip
@pytest.mark.parametrize("told", [True, False])
def test_weights_under_the_names_of_another_code(built, layout, arguments, normalize, told):
    original = with_statistics(built(args=arguments, normalize=normalize, seed=5))
    state = _checkpoints.write(original.state_dict(), layout)
    assert state.keys() != original.state_dict().keys()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, "theirs.pth")
    more = {"layout": layout} if told else {}
    network = built(args=arguments, weights="theirs.pth", **more)
    assert network.normalize.constants == normalize, "the constants are those of the code the file is from"
    assert torch.equal(logits(network), logits(original))
    # what the recipe says goes first
    assert built(args=arguments, weights="theirs.pth", normalize="unit", **more).normalize.constants == "unit"


def test_a_layout_that_the_file_does_not_have(built):
    save_file(built(args=CIRKD).state_dict(), "ours.safetensors")
    with pytest.raises(ValueError, match="mmseg"):
        built(args=CIRKD, weights="ours.safetensors", layout="mmseg")
    with pytest.raises(ValueError, match=r"no layout 'openmmlab'; there are: .*mmseg"):
        built(args=CIRKD, weights="ours.safetensors", layout="openmmlab")


def test_one_network_of_a_file_of_two(built):
    teacher, student = (built(args=MMSEG, seed=seed) for seed in (1, 2))
    both = {
        f"{part}.{key}": value
        for part, network in (("teacher", teacher), ("student", student))
        for key, value in _checkpoints.write(network.state_dict(), "mmseg").items()
    }
    torch.save({"state_dict": both}, "distiller.pth")
    for part, wanted in (("teacher", teacher), ("student", student)):
        found = built(args=MMSEG, weights="distiller.pth", part=part)
        assert torch.equal(logits(found), logits(wanted))


def delivered(folder, network, **config):
    """A student folder as a run leaves it."""
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {"args": parts.completed_arguments("models", "pspnet", CIRKD), "num_classes": 3, **config}
    (folder / "config.json").write_text(json.dumps({"model": "pspnet", **config}))


@pytest.mark.parametrize("constants", ["unit", {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "order": "bgr"}])
def test_constants_of_a_delivered_network(built, tmp_path, constants):
    original = built(args=CIRKD, seed=5)
    original.normalize = Normalize.of(constants)
    delivered(tmp_path / "run/student", original, num_classes=3, normalize=original.normalize.constants)
    network = built(args=CIRKD, weights="run")
    assert network.normalize.constants == original.normalize.constants
    assert torch.equal(logits(network), logits(original))
    with pytest.raises(ValueError, match=r"^networks.teacher.normalize: run/student/.* trained with .*; leave it out$"):
        built(args=CIRKD, weights="run", normalize="cirkd")
    with pytest.raises(ValueError, match="run was trained as pspnet resnet18, the recipe says deeplabv3; write model"):
        built(model="deeplabv3", weights="run")


def test_constants_of_a_recipe(built, tmp_path, caplog):
    theirs = {"mean": [127.5, 127.5, 127.5], "std": [64.0, 64.0, 64.0], "order": "bgr"}
    with caplog.at_level(logging.INFO):
        assert built(args=CIRKD, normalize=theirs).normalize.constants == theirs
    assert "networks.teacher: images are normalised with mean 127.5 127.5 127.5, std 64 64 64, bgr" in caplog.text
    with pytest.raises(RecipeError, match=r"std.0: must be greater than or equal to 1; got 0.229"):
        built(args=CIRKD, normalize={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})


@pytest.mark.parametrize("model, backbone", [("pspnet", "resnet18"), ("segformer", "mit_b0")])
def test_constants_that_published_weights_know(built, tmp_path, caplog, model, backbone):
    """A recipe may override them, and is told; also of an encoder whose weights nobody publishes with others."""
    torch.save(build_backbone(backbone, 32).state_dict(), tmp_path / "w.pth")
    start = {"model": model, "args": {"backbone": backbone, "width": 8, "backbone_weights": "w.pth"}}
    with caplog.at_level(logging.WARNING):
        assert built(**start).normalize.constants == "imagenet"
        assert not caplog.text
        assert built(**start, normalize="cirkd").normalize.constants == "cirkd"
    assert "networks.teacher: images are normalised with cirkd: mean 104.007" in caplog.text
    assert "its weights were trained with imagenet: mean 123.675 116.28 103.53, std 58.395" in caplog.text


def test_weights_beside_another_librarys_config(built, tmp_path):
    original = built(args=CIRKD, normalize="cirkd")
    (tmp_path / "hub").mkdir()
    save_file(_checkpoints.write(original.state_dict(), "cirkd"), tmp_path / "hub/model.safetensors")
    (tmp_path / "hub/config.json").write_text('{"model_type": "pspnet", "num_labels": 3, "architectures": ["X"]}')
    network = built(args=CIRKD, weights="hub")
    assert network.normalize.constants == "cirkd" and torch.equal(logits(network), logits(original))


def test_classes_of_its_own_from_the_file_of_another_code(built, caplog):
    theirs = ["0", "1", "2", "3", "4"]
    original = built(classes=theirs, args=CIRKD, normalize="cirkd", seed=3)
    torch.save(_checkpoints.write(original.state_dict(), "cirkd"), "five.pth")
    with caplog.at_level(logging.WARNING):
        network = built(args=CIRKD, weights="five.pth", class_map={"4": "Road", "0": "Sky", "2": "Sky"})
    assert type(network) is ClassMapped and network.num_classes == 3 and network.network.num_classes == 5
    assert network.normalize.constants == "cirkd"
    assert "2 classes of networks.teacher go to none of ours and are left out: '1', '3'" in caplog.text
    assert "networks.teacher has no class for 1 of ours, which score lowest there: 'Tree'" in caplog.text
    scores, own = logits(network), logits(original)
    torch.testing.assert_close(scores[:, 0], own[:, 4])
    torch.testing.assert_close(scores[:, 1], own[:, [0, 2]].logsumexp(1))
    torch.testing.assert_close(scores[:, 2], scores[:, :2].amin(1))


def test_class_names_of_a_delivered_network(built, tmp_path):
    original = built(classes=["a", "b", "c", "d"], args=CIRKD, seed=3)
    delivered(tmp_path / "run/student", original, num_classes=4, class_names=["tree", "grass", "ROAD, street", "sky"])
    network = built(args=CIRKD, weights="run", class_map="names")
    torch.testing.assert_close(logits(network), logits(original)[:, [2, 3, 0]])
    with pytest.raises(ValueError, match=r"^networks.teacher.class_map: 'gras' is none .* did you mean 'grass'\?"):
        built(args=CIRKD, weights="run", class_map={"gras": "Tree"})
    # without a map its classes must be the data set's
    with pytest.raises(ValueError, match="^networks.teacher: run/student/.* has 4 classes and the data set has 3; say"):
        built(args=CIRKD, weights="run")


@pytest.fixture
def published(tmp_path):
    """A folder of transformers: a SegFormer with three classes of its own."""
    config = SegformerConfig(
        hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8,
        id2label={0: "wall", 1: "tree", 2: "sky"},
    )  # fmt: skip
    torch.manual_seed(0)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "published")
    return {"source": "hf", "model": str(tmp_path / "published"), "weights": None}


def test_what_is_trained_has_the_data_sets_classes(built, published, tmp_path):
    student = built(**published, train=True)
    assert [*student.network.config.id2label.values()] == OURS and student.network.config.label2id["Tree"] == 2
    four = built(classes=[*OURS, "Car"], **published, train=True)
    assert logits(four).shape[1] == 4 and [*four.settings.id2label.values()] == [*OURS, "Car"]
    # a network that learns from it reads the names it was trained on
    config = description(student, "hf", published["model"], {}) | {"class_names": OURS}
    (tmp_path / "delivered").mkdir()
    write_folder(Delivered(student, config, None), tmp_path / "delivered")
    swapped = built(classes=["Tree", "Road", "Sky"], weights="delivered", model=None, class_map="names")
    torch.testing.assert_close(logits(swapped), logits(student)[:, [2, 0, 1]])
    again = from_pretrained(tmp_path / "delivered")
    assert [*again.network.config.id2label.values()] == OURS


def test_a_network_with_classes_of_its_own_needs_a_map(built, published):
    with pytest.raises(
        ValueError, match="networks.teacher: its published network has 3 classes and the data set has 4"
    ):
        built(classes=[*OURS, "Car"], **published)
    with pytest.raises(ValueError, match="has the data set's classes in another order; write class_map: names"):
        built(classes=["sky", "wall", "tree"], **published)
    built(classes=["sky", "wall", "tree"], **published, class_map="names")
    assert built(**published).class_names == ["wall", "tree", "sky"]
    with pytest.raises(
        ValueError, match="its published weights have nothing for decode_head.classifier.weight, decode"
    ):
        built(classes=[*OURS, "Car"], **published, args={"labels": "dataset"})


@pytest.mark.parametrize("entry", [
    {"args": CIRKD}, {"model": "sam"}, {"source": "timm", "model": "resnet18"},
    {"model": "huggingface", "args": {"config": {"model_type": "segformer"}}},
    {"source": "hf", "model": "somewhere/there", "args": {"pretrained": False}},
])  # fmt: skip
def test_a_frozen_network_from_random_weights_is_a_mistake_unless_it_says_so(built, entry):
    with pytest.raises(ValueError, match=r"recipe.yaml:\d+: networks.teacher: is frozen and .*weights: random"):
        built(**entry, weights=None)
    for more in ({"weights": "there"}, {"weights": OtherRecipe(recipe="a")}):
        assert Network(**{"model": "pspnet", **entry, "train": False, **more}).has_start
    assert Network(model="pspnet", args={"pretrained": True}).has_start
    # what is trained may, and the log says so
    recipe = read("recipe.yaml", ["networks.teacher.weights=random"])
    assert random_starts(recipe) == ["student (pspnet mobilenetv2_035) starts from random weights"]
    assert random_starts(read("recipe.yaml", ["networks.teacher.weights=random", "networks.student.weights=b"])) == []


def test_a_delivered_network_needs_no_model(built, tmp_path, caplog):
    original = built(args=CIRKD, seed=5)
    delivered(tmp_path / "run/student", original)
    for weights in ("run", "run/student", "run/student/model.safetensors"):
        assert torch.equal(logits(built(model=None, weights=weights)), logits(original))
    assert torch.equal(logits(built(args={"stem": "v1s"}, weights="run")), logits(original))
    with caplog.at_level(logging.INFO):
        build_networks(read("recipe.yaml"), Named)
    assert "networks.teacher: its weights tell that it is pspnet, backbone: resnet18, output_stride: 8" in caplog.text
    told = r"networks.teacher.args.{0}: run was trained as pspnet resnet18 with {0}: {1}, the recipe says {2}; leave it"
    for key, theirs, ours in (("backbone", "resnet18", "resnet50"), ("align_corners", True, False)):
        with pytest.raises(ValueError, match=told.format(key, theirs, ours)):
            built(args={key: ours}, weights="run")
    with pytest.raises(RecipeError, match="networks.teacher.source: run tells a network of segkd's; leave source out"):
        built(source="timm", model=None, weights="run")
    # dilation may be changed after training
    assert logits(built(args={"output_stride": 32}, weights="run")).shape[-1] == 2
    with pytest.raises(
        ValueError,
        match="networks.teacher.weights: there is no rnu, did you mean 'run'.; name a file .* model: and args:, too",
    ):
        built(model=None, weights="rnu")
    torch.save({"fc.weight": torch.ones(2, 2)}, "other.pth")
    with pytest.raises(
        ValueError, match="other.pth tells no network .is of none that is known.*: .one of bare_enc.*, pspnet"
    ):
        built(model=None, weights="other.pth")


def test_a_recipe_tells_the_network_it_will_train(built, tmp_path):
    text = {"networks": {"student": {"model": "pspnet", "args": {"backbone": "resnet34", "width": 8}}}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(text | {
        "data": {"dataset": "synthetic", "crop_size": [32, 32]}, "losses": [{"loss": "cross_entropy"}],
        "schedule": {"iterations": 1},
    }))  # fmt: skip
    with pytest.raises(FileNotFoundError):  # its run is not there yet
        built(model=None, weights={"recipe": "other.yaml"})
    teacher = read("recipe.yaml").networks["teacher"]
    assert teacher.title == "pspnet resnet34" and teacher.args["width"] == 8 and teacher.args["stem"] == "plain"

    # what the recipe says beside it is checked, and completed, before anything is trained
    saying = read("recipe.yaml", ["networks.teacher.model=pspnet", "networks.teacher.args={width: 8, aux: false}"])
    assert saying.networks["teacher"].args.items() >= {"backbone": "resnet34", "width": 8, "aux": False}.items()
    told = "networks.teacher.args.width: other.yaml was trained as pspnet resnet34 with width: 8, the recipe says 16"
    with pytest.raises(RecipeError, match=told) as error:
        read("recipe.yaml", ["networks.teacher.args={width: 16}"])
    assert "1 mistake" in str(error.value)


def test_a_file_for_another_code_tells_what_it_was_made_of(built):
    """Its keys do not tell constants, nor where corners are; that code's habit is another one here."""
    original = built(args=MMSEG | {"align_corners": True}, normalize="cirkd")
    said = {"model": "pspnet", "args": parts.completed_arguments("models", "pspnet", MMSEG | {"align_corners": True})}
    meta = {"segkd": said | {"normalize": original.normalize.constants}}
    torch.save({"meta": meta, "state_dict": write(original.state_dict(), "mmseg")}, "exported.pth")
    network = built(model=None, weights="exported.pth")
    assert network.normalize.constants == "cirkd" and network.align_corners
    assert torch.equal(logits(network), logits(original))
    for wrong in ({"model": 5, "args": {}, "normalize": "unit"}, {"normalize": "no such"}, [1], {"segkd": 1}):
        torch.save({"meta": {"segkd": wrong}, "state_dict": write(original.state_dict(), "mmseg")}, "exported.pth")
        assert built(weights="exported.pth", args=MMSEG).normalize.constants == "imagenet"


def test_the_keys_of_another_code_tell_the_arguments(built):
    """torchvision's DeepLabV3 with the obvious recipe, which took three rounds of shape lists."""
    make = torchvision.models.segmentation.deeplabv3_resnet50
    theirs = with_statistics(make(weights=None, weights_backbone=None, num_classes=3, aux_loss=True))
    torch.save(theirs.state_dict(), "tv.pth")
    ours = built(weights="tv.pth", model="deeplabv3", args={"backbone": "resnet50"})
    with torch.no_grad():
        wanted = theirs.eval()(ours.normalize(IMAGES))["out"]
        scores = ours.eval()(IMAGES).resized(IMAGES.shape[-2:])
    assert (scores - wanted).abs().max() < 1e-4 * wanted.std()
    recipe = read("recipe.yaml")
    told = recipe.told_by_weights["teacher"]
    assert told.startswith("deeplabv3, stem: plain") and "projection: 1x1, width: 256" in told and "backb" not in told
    alone = read("recipe.yaml", ["networks.teacher.model=null", "networks.teacher.args={}"])
    assert alone.networks["teacher"] == recipe.networks["teacher"]
    with pytest.raises(
        ValueError, match=r"recipe.yaml:\d+: networks.teacher.args.width: tv.pth holds a deeplabv3 resne"
    ):
        built(model="deeplabv3", args={"width": 512}, weights="tv.pth")
    with pytest.raises(
        ValueError, match="networks.teacher.model: tv.pth holds a deeplabv3 resnet50, the recipe says psp"
    ):
        built(weights="tv.pth")


def test_a_part_of_a_file_that_has_one_network(built):
    save_file(built(args=CIRKD).state_dict(), "ours.safetensors")
    with pytest.raises(
        ValueError, match="networks.teacher.weights: this file holds one network alone and no part 'ema'"
    ):
        built(args=CIRKD, weights="ours.safetensors", part="ema")


def test_entries_behind_a_training_modules_name_are_taken_and_told(built, caplog):
    original = built(args=CIRKD, seed=5)
    state = {f"model._orig_mod.{key}": value for key, value in original.state_dict().items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(3)}, "epoch": 1}, "lightning.ckpt")
    with caplog.at_level(logging.INFO):
        assert torch.equal(logits(built(args=CIRKD, weights="lightning.ckpt")), logits(original))
    assert "lightning.ckpt: the entries under model. are taken, without this beginning" in caplog.text


class Named:
    num_classes, class_names, ignore_index = 3, OURS, 255


def test_files_with_code_are_read_by_the_users_own_hand_only(built, tmp_path, explosive):
    state = built(args=CIRKD, seed=4).state_dict()
    torch.save({"state_dict": state, "author": explosive}, "theirs.pth")
    built(args=CIRKD, weights="theirs.pth", trust=True)
    (tmp_path / "exploded").rmdir()
    with pytest.raises(ValueError, match=r"^networks.teacher.weights: theirs.pth holds .*give --trust-checkpoint"):
        build_networks(read("recipe.yaml"), Named)
    assert not (tmp_path / "exploded").exists()
    networks = build_networks(read("recipe.yaml", trust_checkpoint=True), Named)
    assert list(networks) == ["student", "teacher"] and (tmp_path / "exploded").is_dir()
    assert torch.equal(networks["teacher"].state_dict()["classifier.weight"], state["classifier.weight"])
    # no recipe can give it to itself
    text = (tmp_path / "recipe.yaml").read_text()
    for key in ("trust_checkpoint", "_trust_checkpoint"):
        (tmp_path / "recipe.yaml").write_text(f"{text}{key}: true\n")
        with pytest.raises(ValueError, match=re.escape(f"{key}: unknown key")):
            read("recipe.yaml")


def test_a_networks_start_is_its_names_and_moving_averages_are_none(built, tmp_path):
    built(args=CIRKD)
    copy = f"networks.copy={json.dumps({**SMALL, 'train': False, 'weights': 'random'})}"
    recipe = read("recipe.yaml", [copy, "networks.average={ema_of: student, train: false}"])
    networks = build_networks(recipe, Named)
    assert list(networks) == ["student", "teacher", "copy"]
    weights = [network.state_dict()["classifier.weight"] for network in networks.values()]
    assert not torch.equal(weights[0], weights[2])
    alone = build_networks(read("recipe.yaml"), Named)["student"].state_dict()
    assert all(torch.equal(value, alone[key]) for key, value in networks["student"].state_dict().items())


def test_a_file_of_unknown_names_tells_nothing_of_its_network(tmp_path):
    save_file({"some.weight": torch.zeros(2)}, tmp_path / "nobodys.safetensors")
    found = find_weights(tmp_path / "nobodys.safetensors", owner="networks.teacher")
    assert (found.num_classes, found.normalize, found.class_names) == (None, None, None)
