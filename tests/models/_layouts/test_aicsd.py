"""Files of AICSD: what is particular in them, and what has no place there. See also test_codes.py."""

import pytest
import torch

from segkd.models._checkpoints import read_backbone
from segkd.models._layouts import aicsd
from segkd.models.deeplabv3plus import DeepLabV3Plus


def network(backbone="resnet18", classes=5, **args):
    torch.manual_seed(0)
    return DeepLabV3Plus(classes, arrangement="aicsd", backbone=backbone, output_stride=16, **args)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_mobilenetv2_stands_twice_in_a_file():
    theirs = aicsd.write(network("mobilenetv2_100").state_dict())
    assert len(theirs) == 668
    for alias, key in {
        "backbone.low_level_features.3.conv.0.weight": "backbone.features.3.conv.0.weight",
        "backbone.high_level_features.17.conv.7.bias": "backbone.features.17.conv.7.bias",
    }.items():
        assert theirs[alias] is theirs[key]
    # as their code, which loads both into the same tensor one after the other
    theirs["backbone.high_level_features.17.conv.7.bias"] = torch.full((320,), 7.0)
    assert aicsd.read(theirs)["backbone.blocks.6.0.bn3.bias"].unique() == 7


@pytest.mark.parametrize(
    "args",
    [{"aux": True}, {"separable": True}, {"width": 128}, {"stem": "v1c"}, {"arrangement": "mmseg", "aux": False}],
)
def test_other_networks_have_no_such_file(args):
    with torch.device("meta"):
        net = DeepLabV3Plus(5, **{"arrangement": "aicsd"} | args)
    with pytest.raises(ValueError, match=r"the layout aicsd \(DeepLabV3.* has (no name|a pyramid of)"):
        aicsd.write(net.state_dict())


def test_unknown_backbone():
    heads = {key: value for key, value in aicsd.write(network().state_dict()).items() if "backbone" not in key}
    with pytest.raises(ValueError, match="ResNet or MobileNetV2 backbone only"):
        aicsd.describe(heads | {"backbone.block1.rep.0.conv1.weight": torch.zeros(1)})


def test_imagenet_file_of_mobilenetv2():
    net = network("mobilenetv2_100")
    written = aicsd.write(net.state_dict()).items()
    theirs = {key.removeprefix("backbone."): value for key, value in written if key.startswith("backbone.features.")}
    rest = {"features.18.0.weight": torch.zeros(1280, 320, 1, 1), "classifier.1.bias": torch.zeros(1000)}
    assert same(read_backbone(theirs | rest), net.backbone.state_dict())
