"""Strides and dilations against timm's own feature extractor and against the published tables."""

import pytest
import timm
import torch
from torch import nn

from segkd.models._backbones import build_backbone, head_width


def same_weights(backbone, reference):
    """Copies the reference's weights, its batch norms made random first; it may have more tensors than the backbone."""
    generator = torch.manual_seed(0)
    state = reference.state_dict()
    for value in state.values():
        if value.is_floating_point() and value.dim() == 1:
            value.add_(0.1 * torch.rand(value.shape, generator=generator))
    backbone.load_state_dict({key: state[key] for key in backbone.state_dict()})


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnet_equals_timm(name, output_stride):
    reference = timm.create_model(name, features_only=True, output_stride=output_stride).eval()
    backbone = build_backbone(name, output_stride).eval()
    same_weights(backbone, reference)
    x = torch.randn(1, 3, 65, 97, generator=torch.manual_seed(1))
    with torch.no_grad():
        found, expected = backbone(x, set()), reference(x)[1:]
    assert list(found) == ["stage1", "stage2", "stage3", "stage4"]
    for (stage, ours), theirs in zip(found.items(), expected):
        assert theirs.isfinite().all() and theirs.std() > 0
        assert torch.equal(ours, theirs), stage
        assert backbone.channels[stage] == theirs.shape[1]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["mobilenetv2_035", "mobilenetv2_100"])
def test_mobilenet_equals_timm(name, output_stride):
    reference = timm.create_model(name, num_classes=0, global_pool="", output_stride=output_stride).eval()
    backbone = build_backbone(name, output_stride).eval()
    same_weights(backbone, reference)
    x = torch.randn(1, 3, 65, 97, generator=torch.manual_seed(1))
    with torch.no_grad():
        found = backbone(x, set())
        assert torch.equal(found["stage4"], reference.blocks(reference.bn1(reference.conv_stem(x))))
    assert list(found) == ["stage1", "stage2", "stage3", "stage4"]


@pytest.mark.parametrize(
    ("rule", "output_stride", "stage3", "stage4"),
    [
        ("timm", 8, [(1, 2), (2, 2)], [(2, 4), (4, 4)]),
        ("timm", 16, [(1, 1), (1, 1)], [(1, 2), (2, 2)]),
        ("mmseg", 8, [(1, 1), (2, 1)], [(2, 1), (4, 1)]),
        ("mmseg", 16, [(1, 1), (1, 1)], [(1, 1), (2, 1)]),
    ],
)
def test_basic_block_dilations(rule, output_stride, stage3, stage4):
    backbone = build_backbone("resnet18", output_stride, dilation_rule=rule)
    for layer, expected in ((backbone.layer3, stage3), (backbone.layer4, stage4)):
        convs = [(block.conv1, block.conv2) for block in layer]
        assert [(a.dilation[0], b.dilation[0]) for a, b in convs] == expected
        assert all(conv.padding == conv.dilation for pair in convs for conv in pair)
    assert all(conv.dilation == (1, 1) for block in backbone.layer2 for conv in (block.conv1, block.conv2))


@pytest.mark.parametrize("rule", ["timm", "mmseg"])
def test_bottleneck_dilations(rule):
    with torch.device("meta"):
        backbone = build_backbone("resnet50", 8, dilation_rule=rule)
    assert [block.conv2.dilation[0] for block in backbone.layer3] == [1, 2, 2, 2, 2, 2]
    assert [block.conv2.dilation[0] for block in backbone.layer4] == [2, 4, 4]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("timm", [[1, 2, 2, 2], [2, 2, 2], [2, 4, 4], [4]]),
        ("mmseg", [[2, 1, 1, 1], [2, 1, 1], [4, 1, 1], [4]]),
    ],
)
def test_mobilenet_dilations(rule, expected):
    backbone = build_backbone("mobilenetv2_100", 8, dilation_rule=rule)
    assert [[block.conv_dw.dilation[0] for block in stage] for stage in backbone.blocks[3:]] == expected
    assert all(block.conv_dw.stride == (1, 1) for stage in backbone.blocks[3:] for block in stage)


@pytest.mark.parametrize(("stem", "widths"), [("v1c", [32, 32, 64]), ("v1s", [64, 64, 128])])
def test_deep_stems(stem, widths):
    backbone = build_backbone("resnet18", 8, stem)
    assert [m.out_channels for m in backbone.conv1 if isinstance(m, nn.Conv2d)] == widths
    # a wider stem needs a projection even where the first stage keeps its width
    assert (backbone.layer1[0].downsample is not None) == (stem == "v1s")


def test_batch_norm_scales_start_at_one():
    for name in ("resnet18", "mobilenetv2_050"):
        norms = [m for m in build_backbone(name, 8).modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(bool((m.weight == 1).all()) and m.eps == 1e-5 and m.momentum == 0.1 for m in norms)


def test_mobilenet_keeps_relu6_when_norms_are_synchronised():
    backbone = build_backbone("mobilenetv2_035", 8).eval()
    x = torch.randn(1, 3, 33, 33, generator=torch.manual_seed(0))
    before = backbone(x, set())["stage4"]
    assert torch.equal(timm.layers.convert_sync_batchnorm(backbone)(x, set())["stage4"], before)


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("mobilenetv2_100", {"stem": "v1c"}, "mobilenetv2_100 has the plain stem only, got stem 'v1c'"),
        ("mit_b0", {"stem": "v1s"}, "mit_b0 has the plain stem only, got stem 'v1s'"),
        ("mit_b0", {"dilation_rule": "mmseg"}, "mit_b0 has no dilation rule 'mmseg'; it has: timm"),
        ("xception65", {"dilation_rule": "mmseg"}, "xception65 has no dilation rule 'mmseg'; it has: timm"),
        ("timm/test_vit", {"dilation_rule": "cirkd"}, "timm/test_vit has no dilation rule 'cirkd'; it has: timm"),
        ("timm/test_vit", {"stem": "v1c"}, "timm/test_vit has the plain stem only, got stem 'v1c'"),
        ("mobilenetv3_small_100", {"dilation_rule": "aicsd"}, "no dilation rule 'aicsd'; it has: timm, cirkd, mmseg"),
        ("mobilevit_xxs", {"dilation_rule": "mmseg"}, "no dilation rule 'mmseg'; it has: timm, cirkd"),
        ("mit_b0", {"output_stride": 8}, "mit_b0 has the output stride 32 and takes no other, got 8"),
    ],
)
def test_what_an_encoder_does_not_have(name, args, told):
    with pytest.raises(ValueError, match=told):
        build_backbone(name, **{"output_stride": 32} | args)


def test_head_widths():
    assert head_width("mobilenetv3_large_100") == head_width("mobilevit_s") == head_width("timm/convnext_tiny") == 128
    assert head_width("resnet18") == head_width("resnet34") == head_width("mobilenetv2_100") == 128
    assert head_width("resnet50") == head_width("resnet101") == 512
