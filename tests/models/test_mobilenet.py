"""AICSD's MobileNetV2 against its rule written out, the maps before ReLU6, MobileNetV3's paddings and norms."""

import pytest
import torch
import torch.nn.functional as F

from segkd.models._backbones import build_backbone
from segkd.models._mobilenet import MobileNetV2

EXPANSIONS = {"stage1_expand": (2, "stage1"), "stage2_expand": (3, "stage2"), "stage3_expand": (5, "stage3")}


def random_backbone(output_stride=16, rule="aicsd"):
    """The narrowest, with batch norms that move 0."""
    generator = torch.manual_seed(0)
    backbone = MobileNetV2("mobilenetv2_035", output_stride, rule).double()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data = 0.5 + torch.rand(tensor.shape, dtype=torch.float64, generator=generator)
    return backbone


def image(seed=1):
    return torch.randn(2, 3, 65, 97, dtype=torch.float64, generator=torch.manual_seed(seed))


def norm(x, module):
    """Batch norm with the running statistics, before an activation."""
    return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias)


def published_plan(output_stride):
    """(stride, dilation) of the seven groups of blocks: what exceeds the output stride is collected for later ones."""
    running, rate, plan = 2, 1, []
    for stride in (1, 2, 2, 2, 1, 2, 1):
        if running == output_stride:
            plan.append((1, rate))
            rate *= stride
        else:
            plan.append((stride, 1))
            running *= stride
    return plan


@pytest.mark.parametrize("output_stride", [8, 16])
def test_aicsd_pads_before_the_expansion(output_stride):
    backbone = random_backbone(output_stride).eval()
    x = image()
    found = backbone(x, set())
    with torch.no_grad():
        x = F.relu6(norm(F.conv2d(x, backbone.conv_stem.weight, stride=2, padding=1), backbone.bn1))
        for number, (stage, (stride, dilation)) in enumerate(zip(backbone.blocks, published_plan(output_stride))):
            for index, block in enumerate(stage):
                inner = F.pad(x, (dilation,) * 4)
                norms = [block.bn1, block.bn2]
                if number > 0:
                    inner = F.relu6(norm(F.conv2d(inner, block.conv_pw.weight), norms.pop(0)))
                    norms.append(block.bn3)
                weight, step = block.conv_dw.weight, stride if index == 0 else 1
                inner = F.conv2d(inner, weight, stride=step, dilation=dilation, groups=len(weight))
                inner = F.relu6(norm(inner, norms[0]))
                last = block.conv_pwl if number > 0 else block.conv_pw
                inner = norm(F.conv2d(inner, last.weight), norms[1])
                x = x + inner if inner.shape == x.shape and step == 1 else inner
            if number in backbone.stage_ends:
                assert torch.allclose(found[backbone.stage_ends[number]], x, rtol=1e-9, atol=1e-9)


def test_padding_is_seen_at_the_border_only():
    ours, plain = random_backbone(rule="aicsd").eval(), random_backbone(rule="timm").eval()
    plain.load_state_dict(ours.state_dict())
    x = image()
    one, two = ours(x, set())["stage1"], plain(x, set())["stage1"]
    assert one.shape == two.shape and not torch.allclose(one[..., 0, :], two[..., 0, :])
    assert torch.allclose(one[..., 6:-6, 6:-6], two[..., 6:-6, 6:-6], rtol=1e-9)


@pytest.mark.parametrize("rule", ["timm", "aicsd"])
def test_expansions_are_those_of_the_map_without_padding(rule):
    backbone = random_backbone(rule=rule).eval()
    found = backbone(image(), set(EXPANSIONS))
    assert {"stage1", "stage2", "stage3", "stage4", *EXPANSIONS} == set(found)
    for name, (stage, source) in EXPANSIONS.items():
        block = backbone.blocks[stage][0]
        assert torch.allclose(found[name], norm(F.conv2d(found[source], block.conv_pw.weight), block.bn1), rtol=1e-12)
        assert found[name].shape[1] == backbone.channels[name] == 6 * backbone.channels[source]
        assert backbone.strides[name] == backbone.strides[source]
        assert backbone.norms[name][0] is block.bn1.weight and backbone.norms[name][1] is block.bn1.bias
    assert backbone(image(), set()).keys() == {"stage1", "stage2", "stage3", "stage4"}


def test_expansions_in_training_change_nothing_else():
    one, two = random_backbone().train(), random_backbone().train()
    plain, found = one(image(), set()), two(image(), set(EXPANSIONS))
    assert all(torch.equal(plain[stage], found[stage]) for stage in plain)
    state = two.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())
    for name, (stage, _) in EXPANSIONS.items():
        weight, bias = two.norms[name]
        assert torch.allclose(found[name].mean((0, 2, 3)), bias, rtol=1e-9)
        assert torch.allclose(found[name].std((0, 2, 3), unbiased=False), weight, rtol=1e-2)
    (slope,) = torch.autograd.grad(found["stage3_expand"].square().sum(), two.blocks[5][0].conv_pw.weight)
    assert slope.isfinite().all() and slope.abs().sum() > 0


def test_expansions_follow_autocast():
    backbone = random_backbone().float().train()
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone(image().float(), set(EXPANSIONS))
    assert all(found[name].isfinite().all() for name in EXPANSIONS)


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
