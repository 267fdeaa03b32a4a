"""MobileViT: its transformer block under CIRKD's rule. See also test_backbones.py."""

import torch
import torch.nn.functional as F
from torch import nn

from segkd.models._backbones import build_backbone


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
