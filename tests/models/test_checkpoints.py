"""Whose a checkpoint is; torchvision's networks and the encoders of other codes compute here what they do there."""

import pytest
import torch
import torchvision
from torch import nn

from segkd.models._backbones import build_backbone
from segkd.models._checkpoints import describe, guess, one_network, read, read_backbone, write
from segkd.models._weights import load_backbone
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.pspnet import PSPNet


def rand(*shape):
    return torch.randn(*shape, generator=torch.manual_seed(0))


def with_statistics(network):
    """Batch norms that have seen data: the untouched ones hide swapped entries."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(std=0.1)
    return network.eval()


def test_torchvision_scores(same):
    make = torchvision.models.segmentation.deeplabv3_resnet50
    theirs = with_statistics(make(weights=None, weights_backbone=None, num_classes=7, aux_loss=True))
    state = theirs.state_dict()
    found = describe(state, guess(state))
    ours = DeepLabV3(found.num_classes, **found.args).eval()
    ours.load_state_dict(read(state, "torchvision"))
    assert same(write(ours.state_dict(), "torchvision"), state)
    ours.aux_wanted = True
    images = torch.randint(0, 256, (1, 3, 65, 97), dtype=torch.uint8, generator=torch.manual_seed(0))
    with torch.no_grad():
        wanted = theirs(ours.normalize(images))
        given = ours(images)
    assert given.align_corners is False
    for scores, name in ((given.resized((65, 97)), "out"), (ours_resized(given.aux), "aux")):
        assert (scores - wanted[name]).abs().max() < 1e-5 * wanted[name].std()


def ours_resized(scores):
    return nn.functional.interpolate(scores, (65, 97), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
def test_torchvision_encoders(tmp_path, name):
    theirs = with_statistics(torchvision.models.resnet18() if name == "resnet18" else torchvision.models.mobilenet_v2())
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = build_backbone(name, 32).eval()
    load_backbone(ours, False, str(tmp_path / "w.pth"))
    x = rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = ours(x, set())
        if name == "resnet18":
            wanted = nn.Sequential(*list(theirs.children())[:-2])(x)
        else:
            wanted = theirs.features[:18](x)
    assert (maps["stage4"] - wanted).abs().max() < 1e-5 * wanted.std()


class DeepStem(nn.Sequential):
    """Three 3x3 with batch norm and ReLU, then the pool, as mmsegmentation numbers them."""

    def __init__(self, width):
        layers = []
        for in_channels, out_channels, stride in ((3, width, 2), (width, width, 1), (width, 2 * width, 1)):
            conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]
        super().__init__(*layers, nn.MaxPool2d(3, 2, 1))


@pytest.mark.parametrize(("code", "stem", "width"), [("mmseg", "v1c", 32), ("cirkd", "v1s", 64)])
def test_deep_stems(tmp_path, code, stem, width):
    reference = with_statistics(DeepStem(width))
    ours = build_backbone("resnet18", 32, stem).eval()
    prefixes = {"mmseg": {i: f"stem.{i}" for i in range(9)}, "cirkd": {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2"}}
    prefixes["cirkd"] |= {6: "conv3", 7: "bn3"}
    blocks = {key: value for key, value in ours.state_dict().items() if key.startswith("layer")}
    state = blocks | {"fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}
    for key, value in reference.state_dict().items():
        index, rest = key.split(".", 1)
        state[f"{prefixes[code][int(index)]}.{rest}"] = value
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    load_backbone(ours, False, str(tmp_path / "w.pth"))
    x = rand(1, 3, 33, 47)
    with torch.no_grad():
        given = ours.maxpool(ours.act1(ours.bn1(ours.conv1(x))))
        assert (given - reference(x)).abs().max() < 1e-5


def test_flat_and_numbered_mobilenets(same):
    """The encoder's entries in the styles of CIRKD's and mmsegmentation's ImageNet files."""
    torch.manual_seed(0)
    ours = build_backbone("mobilenetv2_035", 16).state_dict()
    network = PSPNet(3, backbone="mobilenetv2_035", level_width=28, aux=False)
    network.backbone.load_state_dict(ours)
    own = {"cirkd": "pretrained.net.", "mmseg": "backbone."}
    for code, prefix in own.items():
        whole = network.state_dict() if code == "cirkd" else PSPNet(3, backbone="mobilenetv2_035").state_dict()
        whole |= {f"backbone.{key}": value for key, value in ours.items()}
        state = {key.removeprefix(prefix): value for key, value in write(whole, code).items() if key.startswith(prefix)}
        state |= {"classifier.1.weight": torch.ones(1)} if code == "cirkd" else {"conv2.conv.weight": torch.ones(1)}
        assert not state.keys() & ours.keys()
        assert same(read_backbone(state), ours)


def test_what_is_nobodys_stays():
    state = {"blocks.0.weight": torch.ones(1)}
    assert read_backbone(state) == state
    with pytest.raises(
        ValueError, match=r"keys of no code known here \(the first are blocks.0.weight\); the layouts are"
    ):
        guess(state)
    with pytest.raises(ValueError, match="the first are nothing"):
        guess({})


def test_our_own(same):
    state = PSPNet(5, width=8).state_dict()
    assert guess(state) == "segkd"
    assert same(read(state, "segkd"), state) and same(write(state, "segkd"), state)
    with pytest.raises(ValueError, match="give the run folder"):
        describe(state, "segkd")


def test_a_file_of_a_distiller(same):
    """mmsegmentation's distillers save both networks and the losses' layers."""
    student, teacher = PSPNet(5, width=8).state_dict(), PSPNet(5, width=16, aux=False).state_dict()
    file = {f"student.{key}": value for key, value in write(student, "mmseg").items()}
    file |= {f"teacher.{key}": value for key, value in write(teacher, "mmseg").items()}
    file["distill_losses.loss_mgd.align.weight"] = torch.ones(1)
    assert guess(file) == guess(file, "teacher") == "mmseg"
    assert same(read(file, "mmseg"), student) and same(read(file, "mmseg", "student"), student)
    assert same(read(file, "mmseg", "teacher"), teacher)
    assert (describe(file, "mmseg").args["width"], describe(file, "mmseg", "teacher").args["width"]) == (8, 16)
    with pytest.raises(ValueError, match="this file has no part 'cnn'; it has: student, teacher"):
        read(file, "mmseg", "cnn")
    alone = {key: value for key, value in file.items() if key.startswith("student.")}
    assert same(read(alone, "mmseg"), student)


def test_networks_trained_together():
    together = {"model_tiny.w": torch.ones(1), "model_cnn.w": torch.ones(2)}
    assert one_network(together, "cnn") == {"w": together["model_cnn.w"]}
    with pytest.raises(ValueError, match="several networks: say which part is meant, one of cnn, tiny"):
        one_network(together)
    with pytest.raises(ValueError, match="no part 'vit'; it has: cnn, tiny"):
        one_network(together, "vit")
    assert one_network({"model_tiny.w": together["model_tiny.w"]}) == {"w": together["model_tiny.w"]}


@pytest.mark.parametrize("name, average", [
    ("model", "ema"), ("model", "model_ema"), ("net", "ema"), ("network", "ema_network"), ("model", "ema_model.module"),
])  # fmt: skip
def test_a_network_beside_its_average_is_what_is_meant(name, average):
    both = {f"{head}.{key}": torch.full((1,), value) for head, value in ((name, 1.0), (average, 2.0)) for key in "ab"}
    both["criterion.weight"] = torch.zeros(1)
    part = average.removesuffix(".module")
    for asked, value in ((None, 1.0), (name, 1.0), (part, 2.0)):
        assert one_network(both, asked) == {"a": torch.full((1,), value), "b": torch.full((1,), value)}
    with pytest.raises(ValueError, match=f"no part 'other'; it has: {part}, {name}"):
        one_network(both, "other")


def test_wrong_wishes():
    state = write(PSPNet(5, width=8).state_dict(), "mmseg")
    with pytest.raises(ValueError, match="no layout 'mmsegmentation'; there are: .*mmseg, cirkd"):
        read(state, "mmsegmentation")
    with pytest.raises(ValueError, match="this is no file of the layout cirkd: its first keys are backbone."):
        read(state, "cirkd")
    with pytest.raises(ValueError, match="of the layout mmseg has no part 'teacher'; its parts: none"):
        read(state, "mmseg", "teacher")
