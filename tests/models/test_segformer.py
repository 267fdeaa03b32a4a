"""The Mix Transformer, its decoder and SegFormer, against their definitions written out."""

import pytest
import torch
import torch.nn.functional as F

from segkd.models._mit import SIZES, MiT, ReducedAttention
from segkd.models._mlp_decoder import MLPDecoder
from segkd.models._tokens import to_map, to_tokens
from segkd.models.segformer import SegFormer


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("backbone", "encoder", "whole"),
    [
        # millions in the encoder and, with 150 classes, in all, as the paper's table 1 has them
        ("mit_b0", 3.4, 3.8),
        ("mit_b1", 13.1, 13.7),
        ("mit_b2", 24.2, 27.5),
        ("mit_b3", 44.0, 47.3),
        ("mit_b4", 60.8, 64.1),
        ("mit_b5", 81.4, 84.7),
    ],
)
def test_sizes_of_the_published_networks(backbone, encoder, whole):
    with torch.device("meta"):
        net = SegFormer(150, backbone=backbone)
    assert parameters(net.backbone) / 1e6 == pytest.approx(encoder, abs=0.1)
    assert parameters(net) / 1e6 == pytest.approx(whole, abs=0.1)


@pytest.mark.parametrize("fuse_bias", [False, True])
@pytest.mark.parametrize("branches", ["linear", "conv"])
def test_decoder_is_resize_concatenate_and_convolve(branches, fuse_bias):
    """Values and gradients against the order of steps in the published codes."""
    torch.manual_seed(0)
    channels = (3, 4, 5, 6)
    decoder = MLPDecoder(channels, 8, branches, fuse_bias).double().eval()
    for tensor in (*decoder.parameters(), *decoder.buffers()):
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.1, 1.0)
    sizes = ((17, 25), (9, 13), (5, 7), (3, 4))
    maps = [torch.randn(2, c, *size, dtype=torch.float64) for c, size in zip(channels, sizes)]

    def published():
        whole = []
        for x, branch in zip(maps, decoder.branches):
            x = branch(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if branches == "linear" else branch(x)
            whole.append(F.interpolate(x, size=(17, 25), mode="bilinear", align_corners=False))
        return F.relu(decoder.norm(decoder.fuse(torch.cat(whole, dim=1))))

    expected, found = published(), decoder(maps)
    assert (expected - found).abs().max() < 1e-12 * expected.std()
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), list(decoder.parameters()))
    got = torch.autograd.grad((found * weight).sum(), list(decoder.parameters()))
    for one, two in zip(wanted, got):
        assert (one - two).abs().max() <= 1e-11 * one.abs().max()


@pytest.mark.parametrize("reduction", [1, 2])
def test_attention_is_that_of_torch(reduction):
    torch.manual_seed(0)
    attention = ReducedAttention(12, 3, reduction, 1e-5).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(2, 5 * 7, 12, dtype=torch.float64)
    source = tokens
    if reduction > 1:
        x = tokens.transpose(1, 2).reshape(2, 12, 5, 7)
        x = F.conv2d(x, attention.reduce.weight, attention.reduce.bias, stride=reduction)
        norm = attention.reduce_norm
        source = F.layer_norm(x.flatten(2).transpose(1, 2), (12,), norm.weight, norm.bias, 1e-5)
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    theirs.in_proj_weight.data = torch.cat([attention.query.weight, attention.key_value.weight])
    theirs.in_proj_bias.data = torch.cat([attention.query.bias, attention.key_value.bias])
    theirs.out_proj.load_state_dict(attention.project.state_dict())
    expected = theirs(tokens, source, source)[0]
    assert (attention(tokens, (5, 7)) - expected).abs().max() < 1e-12 * expected.std()


def test_maps_and_tokens_are_views_of_each_other():
    tokens = torch.randn(2, 15, 4)
    x = to_map(tokens, (3, 5))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.data_ptr() == tokens.data_ptr() == to_tokens(x).data_ptr()
    assert torch.equal(x[1, :, 2, 3], tokens[1, 13]) and torch.equal(to_tokens(x), tokens)


def test_drop_path_rises_over_all_blocks():
    with torch.device("meta"):
        blocks = [block for stage in MiT("mit_b2", drop_path=0.3).stages for block in stage.blocks]
    assert [block.drop_path.drop_prob for block in blocks] == pytest.approx([0.3 * i / 15 for i in range(16)])
    assert len(blocks) == sum(SIZES["mit_b2"][1])


def test_layer_norm_constants_reach_every_norm():
    with torch.device("meta"):
        net = SegFormer(5, norm_eps=1e-3, reduction_eps=1e-4)
    norms = {name: part.eps for name, part in net.named_modules() if isinstance(part, torch.nn.LayerNorm)}
    after_convolution = {name for name in norms if name.endswith(("embed.norm", "reduce_norm"))}
    # four embeddings and, in all but the last stage, two blocks with a reduction
    assert len(after_convolution) == 4 + 6 and len(norms) == 4 + 6 + 16 + 4
    assert {norms[name] for name in after_convolution} == {1e-4}
    assert {norms[name] for name in norms.keys() - after_convolution} == {1e-3}


def test_the_smallest_image():
    net = SegFormer(5, width=16).eval()
    with pytest.raises(ValueError, match="the map is only 4 x 8; give images of 32 x 32 pixels or more"):
        net(torch.zeros(1, 3, 16, 32, dtype=torch.uint8))
    net(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
