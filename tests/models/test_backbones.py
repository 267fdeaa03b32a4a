"""Strides and dilations against timm's own feature extractor and against the published tables."""

import pytest
import timm
import torch
from torch import nn

from segkd.models._backbones import build_backbone, head_width

NAMES = ["resnet18", "resnet34", "resnet50", "mobilenetv2_035", "mobilenetv2_100", "mobilenetv3_small_100",
         "mobilenetv3_large_100", "mobilevit_xxs", "mobilevit_xs", "mobilevit_s"]  # fmt: skip


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_timms(name, output_stride):
    is_mobilevit = name.startswith("mobilevit")
    reference = timm.create_model(name, features_only=not is_mobilevit, output_stride=output_stride).eval()
    backbone, state = build_backbone(name, output_stride).eval(), reference.state_dict()
    generator = torch.manual_seed(0)
    for value in state.values():
        if value.is_floating_point() and value.dim() == 1:
            value.add_(0.1 * torch.rand(value.shape, generator=generator))
    backbone.load_state_dict({key: state[key] for key in backbone.state_dict()})
    x = torch.randn(1, 3, 65, 97, generator=generator)
    with torch.no_grad():
        found = backbone(x, set())
        expected = reference.forward_intermediates(x, intermediates_only=True) if is_mobilevit else reference(x)
    assert list(found) == ["stage1", "stage2", "stage3", "stage4"]
    for (stage, ours), theirs in zip(found.items(), expected[1:], strict=True):
        assert torch.equal(ours, theirs) and theirs.isfinite().all() and theirs.std() > 0, stage
        stride = backbone.strides[stage]
        assert ours.shape[1:] == (backbone.channels[stage], -(-65 // stride), -(-97 // stride))


@pytest.mark.parametrize("name", NAMES)
def test_published_weights_have_these_keys(name):
    with torch.device("meta"):
        backbone, published = build_backbone(name, 8), timm.create_model(name).state_dict()
    assert {key for key in published if not key.startswith(backbone.dropped)} == backbone.state_dict().keys()
    assert backbone.imagenet in (None, *timm.list_pretrained(name))


@pytest.mark.parametrize(
    ("name", "rules", "output_stride", "last"),
    [
        ("resnet18", ("timm", "cirkd"), 8, [1, 2, 2, 2] + [2, 4, 4, 4]),
        ("resnet18", ("timm", "cirkd"), 16, [1, 2, 2, 2]),
        ("resnet18", ("mmseg",), 8, [1, 1, 2, 1] + [2, 1, 4, 1]),
        ("resnet18", ("mmseg",), 16, [1, 1, 2, 1]),
        ("resnet18", ("aicsd",), 8, [2] * 4 + [4] * 4),
        ("resnet18", ("aicsd",), 16, [2] * 4),
        ("resnet18", ("timm", "mmseg", "cirkd", "aicsd"), 32, []),
        ("resnet50", ("timm", "mmseg", "cirkd"), 8, [1, 2, 2, 2, 2, 2] + [2, 4, 4]),
        ("resnet50", ("timm", "cirkd"), 16, [1, 2, 2]),
        ("resnet101", ("aicsd",), 8, [2] * 23 + [4, 8, 16]),
        ("resnet101", ("aicsd",), 16, [2, 4, 8]),
        ("mobilenetv2_100", ("timm", "cirkd"), 8, [1, 2, 2, 2] + [2, 2, 2] + [2, 4, 4] + [4]),
        ("mobilenetv2_100", ("mmseg",), 8, [2, 1, 1, 1] + [2, 1, 1] + [4, 1, 1] + [4]),
        ("mobilenetv2_035", ("timm", "mmseg", "cirkd", "aicsd"), 32, []),
        ("mobilenetv3_small_100", ("timm",), 8, [1, 2, 2, 2, 2] + [2, 4, 4]),
        ("mobilenetv3_small_100", ("cirkd", "mmseg"), 8, [2] * 5 + [4] * 3),
        ("mobilenetv3_small_100", ("cirkd", "mmseg"), 16, [2] * 3),
        ("mobilenetv3_large_100", ("cirkd", "mmseg"), 8, [2] * 6 + [4] * 3),
        ("mobilenetv3_large_100", ("cirkd", "mmseg"), 32, []),
        # of each transformer stage the depthwise, the local and the fusing 3x3
        ("mobilevit_xxs", ("timm",), 8, [1, 2, 1] + [2, 4, 1]),
        ("mobilevit_xxs", ("cirkd",), 8, [2, 1, 1] + [4, 1, 1]),
        ("mobilevit_xs", ("cirkd",), 16, [2, 1, 1]),
        ("mobilevit_s", ("cirkd",), 32, []),
    ],
)
def test_dilations(name, rules, output_stride, last):
    """Of all convolutions with a window, in their order: 1 up to the last ones."""
    for rule in rules:
        with torch.device("meta"):
            backbone = build_backbone(name, output_stride, dilation_rule=rule)
        convs = [conv for conv in backbone.modules() if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1)]
        assert [conv.dilation[0] for conv in convs] == [1] * (len(convs) - len(last)) + last
        for conv in convs:
            side = conv.dilation[0] * (conv.kernel_size[0] // 2)
            assert conv.dilation == (1, 1) or (conv.padding == (side, side) and conv.stride == (1, 1))


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
