"""MobileNetV3: timm's own features where nothing is converted, the published dilations and paddings where it is."""

import pytest
import timm
import torch
import torch.nn.functional as F

from segkd.models._backbones import build_backbone

NAMES = ["mobilenetv3_small_100", "mobilenetv3_large_100"]


def with_random_norms(backbone):
    generator = torch.manual_seed(0)
    for name, value in backbone.state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return backbone.eval()


def dilations(backbone):
    return [block.conv_dw.dilation[0] for group in backbone.blocks[:-1] for block in group]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_timms(name, output_stride):
    backbone = with_random_norms(build_backbone(name, output_stride))
    reference = timm.create_model(name, features_only=True, output_stride=output_stride).eval()
    reference.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 65, 97, generator=torch.manual_seed(1))
    with torch.no_grad():
        found, expected = backbone(x, set()), reference(x)[1:]
    assert list(found) == list(backbone.channels) == list(backbone.strides) == ["stage1", "stage2", "stage3", "stage4"]
    for (stage, ours), theirs in zip(found.items(), expected):
        assert torch.equal(ours, theirs) and theirs.std() > 0, stage
        stride = backbone.strides[stage]
        assert ours.shape[1:] == (backbone.channels[stage], -(-65 // stride), -(-97 // stride))


def test_published_weights_have_these_keys():
    for name in NAMES:
        backbone, published = build_backbone(name, 8), timm.create_model(name)
        keys = {key for key in published.state_dict() if not key.startswith(backbone.dropped)}
        assert keys == backbone.state_dict().keys()
        assert backbone.imagenet in timm.list_pretrained(name)


@pytest.mark.parametrize("rule", ["cirkd", "mmseg"])
def test_converted_dilations(rule):
    small, large = (build_backbone(name, 8, dilation_rule=rule) for name in NAMES)
    assert dilations(small) == [1] * 3 + [2] * 5 + [4] * 3
    assert dilations(large) == [1] * 6 + [2] * 6 + [4] * 3
    assert dilations(build_backbone(NAMES[0], 16, dilation_rule=rule)) == [1] * 8 + [2] * 3
    assert dilations(build_backbone(NAMES[1], 32, dilation_rule=rule)) == [1] * 15
    for block in (block for group in small.blocks[2:-1] for block in group):
        assert block.conv_dw.stride == (1, 1) and block.conv_dw.padding == (2 * block.conv_dw.dilation[0],) * 2


def test_timms_dilations_start_one_block_later():
    assert dilations(build_backbone("mobilenetv3_small_100", 8)) == [1] * 3 + [1, 2, 2, 2, 2] + [2, 4, 4]


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


@pytest.mark.parametrize("name", NAMES)
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
