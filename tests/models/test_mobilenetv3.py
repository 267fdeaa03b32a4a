"""MobileNetV3: the published paddings, and the norms behind its linear maps. See also test_backbones.py."""

import pytest
import torch
import torch.nn.functional as F

from segkd.models._backbones import build_backbone


@pytest.mark.parametrize("size", [(64, 96), (65, 98), (31, 32)])
def test_converted_stem_pads_as_tensorflow_does(size):
    backbone = build_backbone("mobilenetv3_small_100", 8, dilation_rule="cirkd")
    x = torch.randn(1, 3, *size, generator=torch.manual_seed(1))
    # total padding of a 3x3 with stride 2: 1 pixel for an even side, 2 for an odd one; the smaller half comes first
    sides = [(0, 1) if side % 2 == 0 else (1, 1) for side in size]
    expected = F.conv2d(F.pad(x, (*sides[1], *sides[0])), backbone.conv_stem.weight, stride=2)
    assert torch.equal(backbone.conv_stem(x), expected)
    strided = [m for m in backbone.modules() if getattr(m, "stride", 1) == (2, 2)]
    assert len(strided) == 3 and all(type(m) is type(backbone.conv_stem) for m in strided)


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "mobilenetv3_large_100"])
def test_norms_are_those_the_linear_maps_come_from(name):
    backbone = build_backbone(name, 8, dilation_rule="cirkd")
    assert list(backbone.norms) == ["stage1", "stage2", "stage3"]
    for stage, (weight, bias) in backbone.norms.items():
        assert len(weight) == len(bias) == backbone.channels[stage]
        weight.data.zero_()
        bias.data.fill_(3.0)
    maps = backbone.eval()(torch.randn(1, 3, 32, 32, generator=torch.manual_seed(0)), set())
    # small's first block has no shortcut: its map is the bias alone
    assert name != "mobilenetv3_small_100" or bool((maps["stage1"] == 3.0).all())
