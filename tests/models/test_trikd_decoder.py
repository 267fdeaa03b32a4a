"""The decoder and the neck against the same written out; test_trikd.py has the published parameter counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkd.models._trikd_decoder import TriKDDecoder, TriKDNeck

SIZES = ((9, 13), (5, 7), (3, 4), (2, 2))


def rand(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def maps(batch=2, channels=(3, 4, 5, 6), sizes=SIZES):
    return [rand(batch, c, *size, seed=i) for i, (c, size) in enumerate(zip(channels, sizes, strict=True))]


def decoder(**options):
    torch.manual_seed(0)
    return TriKDDecoder((3, 4, 5, 6), (2, 3, 4, 5), 7, bottleneck=8, **options).double()


def block(x, conv, bn):
    """Convolution, batch norm in eval mode, ReLU."""
    x = F.conv2d(x, conv.weight, None, 1, conv.kernel_size[0] // 2)
    scale = bn.weight / (bn.running_var + 1e-5).sqrt()
    return (x * scale.view(1, -1, 1, 1) + (bn.bias - bn.running_mean * scale).view(1, -1, 1, 1)).clamp(min=0)


def cbr(x, layer):
    return block(x, layer.conv, layer.bn)


def pointwise(x, conv):
    """A 1x1 convolution with bias."""
    return torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x) + conv.bias.view(1, -1, 1, 1)


def up(x, size):
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def settle(module):
    """Batch norms with statistics of their own, eval mode."""
    for bn in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for value in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
            nn.init.uniform_(value, 0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("sizes", [SIZES, SIZES[::-1], ((4, 4),) * 4])
def test_decoder_is_its_formula(sizes):
    ours, features = settle(decoder()), maps(sizes=sizes)
    deepest = features[3]
    pooled = [deepest]
    for level, bins in zip(ours.psp_module.features, (1, 2, 3, 6), strict=True):
        pooled.append(up(block(F.adaptive_avg_pool2d(deepest, bins), level[1], level[2]), sizes[3]))
    levels = [None, None, None, cbr(torch.cat(pooled, 1), ours.psp_bottleneck)]
    outputs = [None, None, None, up(levels[3], sizes[0])]
    for i in (2, 1, 0):
        above = up(pointwise(levels[i + 1], ours.down_convs[i]), sizes[i])
        levels[i] = ours.lateral_convs[i](features[i]) + above
        outputs[i] = up(cbr(levels[i], ours.fpn_convs[i]), sizes[0])
    fused = cbr(torch.cat(outputs, 1), ours.fpn_bottleneck)
    expected = pointwise(fused, ours.cls_seg[1])
    logits, head = ours(features)
    assert torch.allclose(head, fused, rtol=1e-10, atol=1e-12)
    assert torch.allclose(logits, expected, rtol=1e-10, atol=1e-12)


def test_bands_and_filters_of_the_levels():
    given = decoder(cutoff=0.2, cutoff_unit="cycles_per_pixel", center="dc")
    filters = [lateral.band_filter for lateral in given.lateral_convs]
    assert [f.band for f in filters] == ["high", "high", "low"]
    assert {(f.cutoff, f.cutoff_unit, f.center) for f in filters} == {(0.2, "cycles_per_pixel", "dc")}
    filters = [lateral.band_filter for lateral in decoder().lateral_convs]
    assert {(f.cutoff, f.cutoff_unit, f.center) for f in filters} == {(10.0, "cycles_per_map", "released")}


def test_keys_are_those_of_the_released_code():
    keys = {key for key in decoder().state_dict() if not key.endswith(("_mean", "_var", "_tracked", "bias"))}
    norms = {f"psp_module.features.{i}.{j}.weight" for i in range(4) for j in (1, 2)}
    blocks = {"psp_bottleneck", "fpn_bottleneck", *(f"fpn_convs.{i}" for i in range(3))}
    laterals = {f"lateral_convs.{i}.{conv}.weight" for i in range(3) for conv in ("conv_atten", "conv")}
    downs = {f"down_convs.{i}.weight" for i in range(3)}
    cbrs = {f"{name}.{part}.weight" for name in blocks for part in ("conv", "bn")}
    assert keys == norms | cbrs | laterals | downs | {"cls_seg.1.weight"}


def test_the_head_is_what_the_classifier_reads():
    ours = decoder(dropout=0.5)
    logits, head = ours(maps())
    assert torch.equal(logits, ours.cls_seg[1](head))
    dropped = (head == 0).all(dim=(2, 3))
    assert dropped.any() and not dropped.all()


@pytest.mark.parametrize("scales", [(0.5, 1.0, 2.0, 4.0), (4.0, 2.0, 1.0, 0.5), (1.5, 0.1)])
def test_neck_is_its_formula(scales):
    neck = settle(TriKDNeck(3, 2, scales).double())
    features = [rand(2, 3, 5, 6, seed=i) for i in range(len(scales))]
    sizes = [(max(1, int(5 * scale)), max(1, int(6 * scale))) for scale in scales]
    for i, level in enumerate(neck(features)):
        expected = cbr(up(cbr(features[i], neck.lateral_convs[i]), sizes[i]), neck.convs[i])
        assert level.shape[-2:] == sizes[i]
        assert torch.allclose(level, expected, rtol=1e-10, atol=1e-12)


def test_initial_weights_of_the_neck():
    torch.manual_seed(0)
    neck = TriKDNeck(64, 32)
    bound = (6 / (9 * 32 + 9 * 32)) ** 0.5  # Xavier uniform of a 3x3
    weight = neck.convs[0].conv.weight
    assert 0.98 * bound < weight.abs().max() <= bound
