"""CIRKD's files of networks on MobileNetV3 and MobileViT: their logits, every size there and back, ImageNet files."""

import pytest
import torch

from segkd.models._backbones import build_backbone
from segkd.models._checkpoints import describe, guess, read, read_backbone, write
from segkd.models._layouts import _cirkd_mobile
from segkd.models._weights import fill
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.pspnet import PSPNet

NETWORKS = {"deeplabv3": DeepLabV3, "pspnet": PSPNet}
NAMES = ["mobilenetv3_small_100", "mobilenetv3_large_100", "mobilevit_xxs", "mobilevit_xs", "mobilevit_s"]


def built(state):
    """The network a file of theirs describes, filled with it."""
    found = describe(state, guess(state))
    net = NETWORKS[found.model](found.num_classes, **found.args)
    fill(net, read(state, "cirkd"), "the case")
    return net


@pytest.mark.parametrize("model", ["deeplabv3", "pspnet"])
@pytest.mark.parametrize("backbone", NAMES)
def test_every_size_there_and_back(backbone, model):
    level = {"level_width": build_backbone(backbone, 8).channels["stage4"] // 4} if model == "pspnet" else {}
    net = NETWORKS[model](7, backbone=backbone, aux=False, **({"projection": "1x1"} if not level else level))
    ours = net.state_dict()
    theirs = write(ours, "cirkd")
    assert guess(theirs) == "cirkd" and not theirs.keys() & ours.keys()
    found = describe(theirs, "cirkd")
    assert (found.model, found.num_classes, found.args["backbone"]) == (model, 7, backbone)
    assert (found.args["dilation_rule"], found.args["output_stride"], found.args["aux"]) == ("cirkd", 8, False)
    again = built(theirs).state_dict()
    assert again.keys() == ours.keys() and all(torch.equal(again[key], ours[key]) for key in ours)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("name", NAMES)
def test_imagenet_files(name, prefix):
    """As OpenMMLab's classifiers write them: other names of the attention, and a classifier."""
    backbone = build_backbone(name, 8, dilation_rule="cirkd")
    ours = backbone.state_dict()
    table = _cirkd_mobile.Renaming(_cirkd_mobile.pairs(name, prefix, ""))
    file = {
        key.replace("attn.attn.in_proj_", "attn.qkv.").replace("attn.attn.out_proj", "attn.proj"): value
        for key, value in table.to_theirs(ours).items()
    }
    found = read_backbone(file | {"head.fc.weight": torch.zeros(9, 3)})
    assert found.keys() == ours.keys() and all(found[key] is value for key, value in ours.items())
    assert (
        _cirkd_mobile.imagenet({"decode_head.conv_seg.weight": torch.zeros(1), "layer4.0.conv1.weight": ours}) is None
    )
    assert _cirkd_mobile.backbone_name(file) is None
    if prefix:  # a whole network of mmsegmentation's is no ImageNet file
        assert _cirkd_mobile.imagenet(file | {"decode_head.conv_seg.weight": torch.zeros(1)}) is None
