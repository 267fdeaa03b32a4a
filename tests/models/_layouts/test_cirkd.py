"""The ImageNet files that CIRKD's MobileNetV3 and MobileViT start from. See also test_codes.py."""

import pytest
import torch

from segkd.models._backbones import build_backbone
from segkd.models._checkpoints import read_backbone
from segkd.models._layouts import cirkd

NAMES = ["mobilenetv3_small_100", "mobilenetv3_large_100", "mobilevit_xxs", "mobilevit_xs", "mobilevit_s"]


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("name", NAMES)
def test_imagenet_files(name, prefix):
    """As OpenMMLab's classifiers write them: other names of the attention, and a classifier."""
    backbone = build_backbone(name, 8, dilation_rule="cirkd")
    ours = backbone.state_dict()
    table = cirkd.Renaming(cirkd.mobile_pairs(name, prefix, ""))
    file = {
        key.replace("attn.attn.in_proj_", "attn.qkv.").replace("attn.attn.out_proj", "attn.proj"): value
        for key, value in table.to_theirs(ours).items()
    }
    found = read_backbone(file | {"head.fc.weight": torch.zeros(9, 3)})
    assert found.keys() == ours.keys() and all(found[key] is value for key, value in ours.items())
    assert cirkd.mobile_backbone({"decode_head.conv_seg.weight": torch.zeros(1), "layer4.0.conv1.weight": ours}) is None
    assert cirkd.mobile_name(file) is None
    if prefix:  # a whole network of mmsegmentation's is no ImageNet file
        assert cirkd.mobile_backbone(file | {"decode_head.conv_seg.weight": torch.zeros(1)}) is None
