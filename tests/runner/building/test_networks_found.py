"""Weights as people find them on a disk: of other codes, of other classes, of less than the network, with more."""

import pytest
import torch
import torchvision
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    ViTConfig,
    ViTModel,
)

from segkd.models._checkpoints import write
from segkd.runner.building.delivered import Delivered, write_folder
from segkd.runner.building.networks import build_network
from segkd.runner.recipe import parts
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.pretrained import description

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
MMSEG = {"backbone": "resnet18", "stem": "v1c", "dilation_rule": "mmseg", "width": 8, "output_stride": 8}
SEGFORMER = SegformerConfig(
    num_labels=3, depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8
)
GREY = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
HALF = "mean 127.5 127.5 127.5, std 127.5 127.5 127.5"


@torch.no_grad()
def logits(network):
    return network.eval()(IMAGES).logits


def of_mmseg(classes=3, **args):
    return parts.build("models", "deeplabv3", MMSEG | args, classes)


@pytest.mark.parametrize("meta", [
    {"dataset_meta": {"classes": ("Sky", "Tree", "Road"), "palette": None}}, {"CLASSES": ["Sky", "Tree", "Road"]}
])  # fmt: skip
def test_mmsegmentations_files_name_their_classes(built, meta):
    theirs = of_mmseg()
    torch.save({"meta": meta, "state_dict": write(theirs.state_dict(), "mmseg")}, "mm.pth")
    with pytest.raises(ValueError, match="has the data set's classes in another order; write class_map: names"):
        built(weights="mm.pth", model=None)
    mapped = built(weights="mm.pth", model=None, class_map="names")
    torch.testing.assert_close(logits(mapped), logits(theirs)[:, [2, 0, 1]])


def test_a_folder_of_transformers_has_its_constants_and_classes(built):
    settings = SegformerConfig(**SEGFORMER.to_dict() | {"id2label": {0: "Tree", 1: "Road", 2: "Sky"}})
    network = SegformerForSemanticSegmentation(settings)
    network.save_pretrained("theirs")
    SegformerImageProcessor(**GREY).save_pretrained("theirs")
    for weights in ("theirs", "theirs/model.safetensors"):
        with pytest.raises(ValueError, match="in another order"):
            built(weights=weights, model="segformer", args={"backbone": "mit_b0", "width": 8})
        mapped = built(weights=weights, source="hf", model="theirs", class_map="names")
        assert mapped.network.normalize.words.startswith(HALF)


def test_a_finetuned_state_dict_fills_the_network_of_transformers_it_is_of(built):
    trained = SegformerForSemanticSegmentation(SEGFORMER)
    SegformerForSemanticSegmentation(SEGFORMER).save_pretrained("published")
    trained.save_pretrained("trained")
    torch.save(trained.state_dict(), "memory.pth")
    torch.save({"state_dict": {f"model.{key}": value for key, value in trained.state_dict().items()}}, "light.ckpt")
    for weights in ("memory.pth", "light.ckpt", "trained/model.safetensors"):
        found = built(source="hf", model="published", weights=weights)
        assert all(torch.equal(value, found.network.state_dict()[key]) for key, value in trained.state_dict().items())


@pytest.mark.parametrize("kind", [Dinov2Model, ViTModel])
def test_an_encoders_own_file_is_read_under_transformers_names(built, kind):
    config = Dinov2Config if kind is Dinov2Model else ViTConfig
    settings = config(hidden_size=8, num_hidden_layers=4, num_attention_heads=1, image_size=28, patch_size=14, mlp_ratio=1,
                      intermediate_size=8)  # fmt: skip
    theirs = kind(settings)
    theirs.save_pretrained("theirs")
    arguments = {"head": None, "backbone_weights": "theirs/model.safetensors"}
    found = built(source="hf", model="theirs", args=arguments, weights=None).backbone.net
    known = {key: value for key, value in theirs.state_dict().items() if "pooler" not in key}
    assert known and all(torch.equal(value, found.state_dict()[key]) for key, value in known.items())


def test_a_student_of_other_classes_starts_from_all_but_its_classifier(built, caplog):
    torch.save({"state_dict": write(of_mmseg(7).state_dict(), "mmseg")}, "seven.pth")
    with pytest.raises(ValueError, match="has 7 classes and the data set has 3; say with class_map which"):
        built(weights="seven.pth", model=None, train=True)
    student = read("recipe.yaml", ["networks.student={weights: seven.pth}"]).networks["student"]
    with pytest.raises(ValueError, match="has 7 classes and the data set has 3; write strict: false, with which"):
        build_network("student", student, 3, 0, ["Road", "Sky", "Tree"])
    found = built(weights="seven.pth", model=None, train=True, strict=False)
    assert found.num_classes == 3 and "of another shape: classifier.weight is (7, 8, 1, 1) there" in caplog.text
    saved = torch.load("seven.pth")["state_dict"]
    assert torch.equal(found.state_dict()["backbone.layer1.0.conv1.weight"], saved["backbone.layer1.0.conv1.weight"])
    with pytest.raises(ValueError, match="7 classes"):
        built(weights="seven.pth", model=None, strict=False)


def test_the_encoder_of_a_whole_network_starts_another_one(built, tmp_path):
    theirs = of_mmseg(7)
    torch.save({"state_dict": write(theirs.state_dict(), "mmseg")}, "mm.pth")
    torch.save(theirs.state_dict(), "ours.pth")
    plain = parts.build("models", "deeplabv3", MMSEG | {"stem": "plain"}, 7)
    smp = {f"encoder.{key}": value for key, value in plain.backbone.state_dict().items()}
    torch.save(smp | {"decoder.a.weight": torch.ones(3), "segmentation_head.0.weight": torch.ones(3)}, "smp.pth")
    config = description(theirs, "segkd", "deeplabv3", MMSEG) | {"class_names": [], "palette": []}
    (tmp_path / "student").mkdir()
    write_folder(Delivered(theirs, config, tmp_path), tmp_path / "student")
    for file, source in (("mm.pth", theirs), ("ours.pth", theirs), ("student", theirs), ("smp.pth", plain)):
        stem = "plain" if source is plain else "v1c"
        arguments = {"backbone": "resnet18", "stem": stem, "width": 8, "backbone_weights": file}
        found = built(model="pspnet", args=arguments, weights=None, train=True).backbone.state_dict()
        assert all(torch.equal(value, found[key]) for key, value in source.backbone.state_dict().items()), file
    with pytest.raises(ValueError, match="of segmentation_models_pytorch, whose decoders are not here"):
        built(weights="smp.pth", model=None)


def test_a_file_that_says_no_constants_is_told_where_the_encoder_has_others(built, caplog):
    arguments = {"backbone": "timm/tf_efficientnet_lite0", "width": 8}
    network = parts.build("models", "deeplabv3", arguments, 3)
    torch.save(network.state_dict(), "bare.pth")
    entry = {"model": "deeplabv3", "weights": "bare.pth"}
    built(**entry, args=arguments)
    assert "bare.pth does not say what its images were normalised with" in caplog.text and HALF in caplog.text
    caplog.clear()
    # who says that it began from ImageNet's weights has said it, and they are not read
    assert built(**entry, args=arguments | {"pretrained": True}).normalize.words.startswith(HALF)
    assert built(**entry, args=arguments, normalize="imagenet").normalize.constants == "imagenet"
    assert "does not say" not in caplog.text


def test_what_a_frozen_network_lacks_is_no_random_start(built):
    network = of_mmseg(aux_width=4)
    whole = network.state_dict()
    torch.save({key: value for key, value in whole.items() if key.startswith("backbone.")}, "encoder.pth")
    torch.save({key: value for key, value in whole.items() if not key.startswith("aux_head.")}, "plain.pth")
    torch.save(write(whole, "mmseg"), "aux.pth")
    arguments = MMSEG | {"aux_width": 4}
    with pytest.raises(ValueError, match="is frozen and encoder.pth has nothing for aspp.* which would stay random"):
        built(model="deeplabv3", args=arguments, weights="encoder.pth", strict=False)
    for file, more in (("plain.pth", {"strict": False}), ("aux.pth", {"args": MMSEG | {"aux": False}})):
        found = built(**{"model": "deeplabv3", "args": arguments, "weights": file, **more})
        torch.testing.assert_close(logits(found), logits(network))


def test_batch_norms_of_another_eps_are_told(built, caplog):
    theirs = torchvision.models.mobilenet_v3_large()
    torch.save(theirs.state_dict(), "v3.pth")
    arguments = {"backbone": "mobilenetv3_large_100", "backbone_weights": "v3.pth"}
    built(model="bare_encoder", args=arguments, weights=None)
    assert "trained with an eps of 0.001, and here they have 1e-05" in caplog.text
    caplog.clear()
    same = built(model="lraspp", args=arguments | {"norm_eps": 1e-3}, weights=None, train=True)
    assert "eps" not in caplog.text and {
        one.eps for one in same.backbone.modules() if isinstance(one, nn.BatchNorm2d)
    } == {1e-3}
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(same.eval().backbone(images, set())["stage1"], theirs.eval().features[:4](images))


def test_averages_and_modules_of_any_name_are_taken_apart(built):
    network = of_mmseg()
    state = write(network.state_dict(), "mmseg")
    average = {"steps": torch.tensor(9), **{f"module.{key}": value for key, value in state.items()}}
    torch.save({"state_dict": state, "ema_state_dict": average}, "ema.pth")
    torch.save({"state_dict": {f"segmentor.{key}": value for key, value in state.items()}}, "named.ckpt")
    for weights, more in (("ema.pth", {"part": "ema_state_dict"}), ("named.ckpt", {})):
        torch.testing.assert_close(logits(built(model=None, weights=weights, **more)), logits(network))


def test_what_a_foreign_source_and_the_weights_say_is_told_by_its_own_keys(built):
    torch.save({"state_dict": write(of_mmseg().state_dict(), "mmseg")}, "mm.pth")
    with pytest.raises(
        ValueError, match="networks.teacher.model: .* recipe says timm/resnet50; leave source, model and"
    ):
        built(source="timm", model="resnet50", weights="mm.pth")


def test_a_file_that_only_trust_reads_tells_no_network(built, explosive):
    torch.save({"state_dict": write(of_mmseg().state_dict(), "mmseg"), "more": explosive}, "code.pth")
    with pytest.raises(ValueError, match="whether or not it is given, name the network's model: and args:"):
        built(weights="code.pth", model=None)
