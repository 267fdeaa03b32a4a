"""AICSD's dilations against its card, and the stride without any."""

import pytest
import timm
import torch

from segkd.models._resnet import ResNet


def dilations(layer):
    """Of the 3x3 convolutions of each block; padding keeps the size."""
    convs = [[conv for conv in (block.conv1, block.conv2) if conv.kernel_size == (3, 3)] for block in layer]
    assert all(conv.padding == conv.dilation for block in convs for conv in block)
    return [[conv.dilation[0] for conv in block] for block in convs]


@pytest.mark.parametrize(("output_stride", "stage3", "stage4"), [(16, 1, 2), (8, 2, 4)])
def test_aicsd_dilates_a_stage_of_basic_blocks_as_a_whole(output_stride, stage3, stage4):
    with torch.device("meta"):
        backbone = ResNet("resnet18", output_stride, "plain", "aicsd")
    assert dilations(backbone.layer2) == [[1, 1]] * 2
    assert dilations(backbone.layer3) == [[stage3] * 2] * 2
    assert dilations(backbone.layer4) == [[stage4] * 2] * 2


@pytest.mark.parametrize(("output_stride", "stage3", "grid"), [(16, 1, [2, 4, 8]), (8, 2, [4, 8, 16])])
def test_aicsd_ends_bottlenecks_with_a_grid_of_dilations(output_stride, stage3, grid):
    with torch.device("meta"):
        backbone = ResNet("resnet101", output_stride, "plain", "aicsd")
    assert dilations(backbone.layer3) == [[stage3]] * 23
    assert dilations(backbone.layer4) == [[dilation] for dilation in grid]


@pytest.mark.parametrize("rule", ["timm", "mmseg", "cirkd", "aicsd"])
def test_nothing_is_dilated_at_stride_32(rule):
    backbone = ResNet("resnet18", 32, "plain", rule).eval()
    assert list(backbone.strides.values())[::2] == [4, 8, 16, 32]
    reference = timm.create_model("resnet18", features_only=True).eval()
    reference.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 65, 97, generator=torch.manual_seed(0))
    with torch.no_grad():
        assert torch.equal(backbone(x, set())["stage4"], reference(x)[-1])


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_cirkd_is_timm(name, output_stride):
    with torch.device("meta"):
        ours, timms = (ResNet(name, output_stride, "v1c", rule) for rule in ("cirkd", "timm"))
    for layer in ("layer3", "layer4"):
        assert dilations(getattr(ours, layer)) == dilations(getattr(timms, layer))
