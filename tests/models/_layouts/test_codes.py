"""Names of other codes: networks of ours written, told, described and read back."""

import pytest
import torch

from segkd.models import _checkpoints
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.deeplabv3plus import DeepLabV3Plus
from segkd.models.pspnet import PSPNet
from segkd.models.upernet import UPerNet

CLASSES = {"deeplabv3": DeepLabV3, "deeplabv3plus": DeepLabV3Plus, "pspnet": PSPNet, "upernet": UPerNet}
CIRKD = {"dilation_rule": "cirkd", "align_corners": True, "dropout_kind": "elements", "head_init": "torch"}
CIRKD_V3 = CIRKD | {"projection": "1x1"}
CIRKD_UPER = CIRKD | {"arrangement": "cirkd", "stem": "v1s"}
MMSEG = {"dilation_rule": "mmseg"}
AICSD = {"arrangement": "aicsd", "output_stride": 16, "dilation_rule": "aicsd"}
UNIMATCH = {"arrangement": "unimatch", "output_stride": 16, "dilation_rule": "timm"}
TORCHVISION = {"projection": "1x1", "dropout_kind": "elements", "head_init": "torch"}


def entries(model, num_classes, args):
    """Another number in each entry, in no memory: built on the meta device."""
    with torch.device("meta"):
        state = CLASSES[model](num_classes, **args).state_dict()
    return {key: torch.tensor(float(i)).expand(value.shape) for i, (key, value) in enumerate(state.items())}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("layout", "model", "num_classes", "args"),
    [
        ("mmseg", "deeplabv3", 7, MMSEG | {"backbone": "resnet34", "stem": "v1c", "width": 64, "aux": False}),
        ("mmseg", "deeplabv3", 19, MMSEG | {"backbone": "mobilenetv2_100", "width": 512}),
        ("mmseg", "pspnet", 150, MMSEG | {"backbone": "resnet50", "stem": "v1c"}),
        ("mmseg", "pspnet", 21, MMSEG | {"backbone": "resnet18", "width": 8, "aux_width": 5}),
        ("mmseg", "deeplabv3plus", 19, MMSEG | {"backbone": "resnet101", "stem": "v1c"}),
        ("mmseg", "deeplabv3plus", 3, MMSEG | {"backbone": "mobilenetv2_050", "width": 24}),
        ("mmseg", "upernet", 5, MMSEG | {"backbone": "resnet50", "stem": "v1c", "width": 512, "output_stride": 32}),
        ("mmseg", "upernet", 3, MMSEG | {"stem": "v1c", "width": 24, "aux_width": 7, "arrangement": "mmseg"}),
        ("mmseg", "upernet", 5, MMSEG | {"width": 24, "aux": False}),
        ("cirkd", "upernet", 5, CIRKD_UPER | {"backbone": "resnet50", "width": 512, "output_stride": 8}),
        ("cirkd", "upernet", 3, CIRKD_UPER | {"width": 24, "aux_width": 7}),
        ("cirkd", "upernet", 5, CIRKD_UPER | {"width": 24, "aux": False}),
        ("cirkd", "deeplabv3", 7, CIRKD_V3 | {"backbone": "resnet50", "stem": "v1s", "width": 64}),
        ("cirkd", "deeplabv3", 11, CIRKD_V3 | {"stem": "plain", "width": 16, "aux_width": 64}),
        ("cirkd", "deeplabv3", 19, CIRKD_V3 | {"backbone": "mobilenetv2_100", "width": 32, "aux": False}),
        ("cirkd", "deeplabv3", 19, CIRKD_V3 | {"backbone": "mobilenetv3_large_100", "aux": False}),
        ("cirkd", "deeplabv3", 171, CIRKD_V3 | {"backbone": "mobilevit_xs", "aux": False}),
        ("cirkd", "pspnet", 19, CIRKD | {"backbone": "resnet101", "stem": "v1s", "width": 512, "level_width": 512}),
        ("cirkd", "pspnet", 2, CIRKD | {"backbone": "mobilenetv3_small_100", "level_width": 144, "aux": False}),
        ("cirkd", "pspnet", 2, CIRKD | {"backbone": "mobilevit_s", "level_width": 160, "aux": False}),
        ("aicsd", "deeplabv3plus", 19, AICSD | {"backbone": "resnet18"}),
        ("aicsd", "deeplabv3plus", 21, AICSD | {"backbone": "resnet101"}),
        ("aicsd", "deeplabv3plus", 5, AICSD | {"backbone": "mobilenetv2_100"}),
        ("unimatch", "deeplabv3plus", 19, UNIMATCH | {"backbone": "resnet50", "stem": "v1s"}),
        ("unimatch", "deeplabv3plus", 21, UNIMATCH | {"backbone": "resnet101", "stem": "v1s"}),
        ("unimatch", "deeplabv3plus", 5, UNIMATCH | {"backbone": "xception65"}),
        ("torchvision", "deeplabv3", 21, TORCHVISION | {"backbone": "resnet101", "width": 256, "aux_width": 256}),
        ("torchvision", "deeplabv3", 4, TORCHVISION | {"backbone": "resnet50", "width": 256, "aux": False}),
    ],
)
def test_written_told_described_and_read(layout, model, num_classes, args):
    ours = entries(model, num_classes, args)
    theirs = _checkpoints.write(ours, layout)
    # the encoder's names and the classifier's are those of other codes too
    assert not theirs.keys() & ours.keys() - {key for key in ours if key.startswith(("backbone.", "classifier."))}
    assert _checkpoints.guess(theirs) == layout != _checkpoints.guess(ours)
    found = _checkpoints.describe(theirs, layout)
    assert (found.model, found.num_classes) == (model, num_classes)
    told = {name: value for name, value in args.items() if found.args.get(name) == value}
    assert told == args
    assert {key: value.shape for key, value in entries(model, found.num_classes, found.args).items()} == {
        key: value.shape for key, value in ours.items()
    }
    read = _checkpoints.read(theirs, layout)
    assert same(read, ours)
    assert same(_checkpoints.write(read, layout), theirs)


def test_names_of_mmsegmentation():
    theirs = _checkpoints.write(entries("deeplabv3plus", 19, {"stem": "v1c", "width": 8}), "mmseg")
    assert {
        "backbone.stem.6.weight",
        "backbone.stem.7.running_var",
        "backbone.layer4.0.downsample.1.weight",
        "decode_head.image_pool.1.conv.weight",
        "decode_head.aspp_modules.3.pointwise_conv.bn.weight",
        "decode_head.c1_bottleneck.conv.weight",
        "decode_head.sep_bottleneck.1.depthwise_conv.conv.weight",
        "auxiliary_head.convs.0.bn.bias",
        "auxiliary_head.conv_seg.bias",
    } <= theirs.keys()
    backbone = _checkpoints.write(entries("pspnet", 19, {"backbone": "mobilenetv2_035"}), "mmseg")
    assert {"backbone.conv1.bn.bias", "backbone.layer1.0.conv.1.conv.weight", "backbone.layer7.0.conv.2.bn.bias"} <= (
        backbone.keys()
    )


def test_names_of_cirkd():
    args = {"backbone": "mobilenetv2_100", "projection": "1x1", "aux": False}
    theirs = _checkpoints.write(entries("deeplabv3", 19, args), "cirkd")
    assert {
        "pretrained.net.features.0.1.weight",
        "pretrained.net.features.1.conv.4.bias",
        "pretrained.net.features.17.conv.7.bias",
        "head.aspp.b0.1.weight",
        "head.aspp.b3.block.0.weight",
        "head.aspp.b4.gap.2.weight",
        "head.aspp.project.1.weight",
        "head.block.4.bias",
    } <= theirs.keys()


@pytest.mark.parametrize(
    ("layout", "model", "args", "error"),
    [
        ("mmseg", "deeplabv3", {"projection": "1x1"}, "mmsegmentation's ASPP ends with a 3x3"),
        ("mmseg", "pspnet", {"level_width": 32}, "levels as wide as its output"),
        ("mmseg", "deeplabv3plus", {"separable": False}, "has no name for the entries .*decoder.0.conv.weight"),
        ("mmseg", "deeplabv3", {"backbone": "mobilenetv3_small_100"}, "mmsegmentation has no name for the entries"),
        ("cirkd", "deeplabv3", {}, "CIRKD has no such network"),
        ("cirkd", "pspnet", {"width": 64}, "set level_width"),
        ("cirkd", "pspnet", {"level_width": 128, "stem": "v1c"}, "stem must be v1s"),
        ("cirkd", "pspnet", {"backbone": "mobilenetv2_100", "level_width": 80}, "set aux: false"),
        ("torchvision", "deeplabv3", {}, "projection: 1x1"),
        ("torchvision", "pspnet", {}, "projection: 1x1"),
        ("torchvision", "deeplabv3", {"projection": "1x1", "backbone": "mobilenetv2_100"}, "no name for the entries"),
    ],
)
def test_networks_a_code_does_not_have(layout, model, args, error):
    with pytest.raises(ValueError, match=error):
        _checkpoints.write(entries(model, 5, args), layout)


def test_checkpoints_of_networks_we_do_not_have():
    state = {"backbone.layer1.0.conv1.weight": torch.ones(1), "decode_head.conv_seg.weight": torch.ones(1)}
    with pytest.raises(ValueError, match="none of our networks has a decode_head of conv_seg; there are"):
        _checkpoints.describe(state, "mmseg")
    theirs = _checkpoints.write(entries("pspnet", 5, {"stem": "v1c"}), "mmseg")
    theirs |= {f"backbone.layer3.{block}.conv1.weight": torch.ones(1) for block in range(36)}
    with pytest.raises(ValueError, match="has 36 basic blocks in layer3; ours are resnet18"):
        _checkpoints.describe(theirs, "mmseg")
