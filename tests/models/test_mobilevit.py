"""MobileViT: timm's own features under its rule, the published dilations and blocks under CIRKD's."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from segkd.models._backbones import build_backbone

NAMES = ["mobilevit_xxs", "mobilevit_xs", "mobilevit_s"]


def dilations(backbone):
    """Of the depthwise and of the local 3x3, for the last two stages."""
    return [(block[0].conv2_kxk.conv.dilation[0], block[1].conv_kxk.conv.dilation[0]) for block in backbone.stages[3:]]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_timms(name, output_stride):
    reference = timm.create_model(name, output_stride=output_stride).eval()
    backbone = build_backbone(name, output_stride).eval()
    state = reference.state_dict()
    assert {key for key in state if not key.startswith(backbone.dropped)} == backbone.state_dict().keys()
    assert backbone.imagenet in timm.list_pretrained(name)
    backbone.load_state_dict({key: state[key] for key in backbone.state_dict()})
    x = torch.randn(1, 3, 65, 97, generator=torch.manual_seed(1))
    with torch.no_grad():
        found = backbone(x, set())
        expected = reference.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
    assert list(found) == list(backbone.channels) == list(backbone.strides) == ["stage1", "stage2", "stage3", "stage4"]
    for (stage, ours), theirs in zip(found.items(), expected):
        assert torch.equal(ours, theirs) and theirs.std() > 0, stage
        stride = backbone.strides[stage]
        assert ours.shape[1:] == (backbone.channels[stage], -(-65 // stride), -(-97 // stride))


def test_dilations():
    assert dilations(build_backbone("mobilevit_xxs", 8)) == [(1, 2), (2, 4)]
    assert dilations(build_backbone("mobilevit_xxs", 8, dilation_rule="cirkd")) == [(2, 1), (4, 1)]
    assert dilations(build_backbone("mobilevit_xs", 16, dilation_rule="cirkd")) == [(1, 1), (2, 1)]
    assert dilations(build_backbone("mobilevit_s", 32, dilation_rule="cirkd")) == [(1, 1), (1, 1)]


def test_cirkds_transformer_block():
    """The block written out: attention of torch's own, between pixels of one position in their 2x2 patches."""
    block = build_backbone("mobilevit_xxs", 8, dilation_rule="cirkd").stages[2][1].eval().double()
    x = torch.randn(2, 48, 5, 6, generator=torch.manual_seed(0), dtype=torch.float64)

    with torch.no_grad():
        local = block.conv_1x1(block.conv_kxk(x))
        even = F.interpolate(local, (6, 6), mode="bilinear", align_corners=False)
        out = torch.zeros_like(even)
        for top, left in ((0, 0), (0, 1), (1, 0), (1, 1)):
            tokens = even[:, :, top::2, left::2].flatten(2).mT  # (B, N, C)
            for layer in block.transformer:
                attention = nn.MultiheadAttention(64, 4, batch_first=True).double()
                attention.load_state_dict({
                    "in_proj_weight": layer.attn.qkv.weight, "in_proj_bias": layer.attn.qkv.bias,
                    "out_proj.weight": layer.attn.proj.weight, "out_proj.bias": layer.attn.proj.bias,
                })  # fmt: skip
                normed = F.layer_norm(tokens, (64,), layer.norm1.weight, layer.norm1.bias, 1e-5)
                tokens = tokens + attention(normed, normed, normed, need_weights=False)[0]
                normed = F.layer_norm(tokens, (64,), layer.norm2.weight, layer.norm2.bias, 1e-5)
                tokens = tokens + layer.mlp.fc2(F.silu(layer.mlp.fc1(normed)))
            tokens = F.layer_norm(tokens, (64,), block.norm.weight, block.norm.bias, 1e-5)
            out[:, :, top::2, left::2] = tokens.mT.reshape(2, 64, 3, 3)
        out = F.interpolate(out, (5, 6), mode="bilinear", align_corners=False)
        norm = block.conv_proj.bn
        out = F.batch_norm(block.conv_proj.conv(out), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        expected = block.conv_fusion(torch.cat((x, out), 1))
        assert torch.allclose(block(x), expected, rtol=1e-9, atol=1e-12)
