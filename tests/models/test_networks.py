"""Networks with heads of ours: dropout, initial weights, arguments, sizes. See also test_every_network.py."""

import pytest
import torch

from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.deeplabv3plus import DeepLabV3Plus
from segkd.models.pspnet import PSPNet
from segkd.models.segformer import SegFormer
from segkd.models.upernet import UPerNet

# as in the papers, torchvision, CIRKD and DIST; the default arrangement is mmsegmentation's
ORIGINAL = {"dropout_kind": "elements", "align_corners": True, "head_init": "torch"}
CIRKD_UPER = {"arrangement": "cirkd"}
CIRKD = {"stem": "v1s", "projection": "1x1"}
AICSD = {"arrangement": "aicsd", "output_stride": 16, "dilation_rule": "aicsd"}
UNIMATCH = {"arrangement": "unimatch", "output_stride": 16, "stem": "v1s"}


def small(network, **args):
    """Narrow heads keep the tests fast; the widths of the papers are checked by parameter count."""
    torch.manual_seed(0)
    return network(5, **({"backbone": "mobilenetv2_035", "width": 16} | args))


@pytest.mark.parametrize(
    ("network", "args", "before"),
    [
        (DeepLabV3, {}, "aspp"),
        (DeepLabV3, ORIGINAL | {"projection": "1x1"}, "refined"),
        (DeepLabV3Plus, {}, "decoder"),
        (PSPNet, {}, "pyramid"),
        (PSPNet, ORIGINAL | {"level_width": 12}, "pyramid"),
        (UPerNet, {}, "decoder"),
        (SegFormer, {"backbone": "mit_b0"}, "decoder"),
    ],
)
def test_head_is_read_after_dropout(network, args, before, images):
    net = small(network, dropout=0.5, **args).train()
    net.features_wanted = {before, "head"}
    torch.manual_seed(0)  # dropout
    features = net(images()).features
    kept = features["head"] != 0
    assert torch.equal(features["head"][kept], 2 * features[before][kept])  # what is kept is doubled
    shares = kept.flatten(2).float().mean(dim=2)  # (B, C)
    if args.get("dropout_kind") == "elements":
        assert 0.3 < shares.max() < 0.7
    else:
        dropped = shares == 0
        assert 0 < dropped.sum() < dropped.numel()
        assert torch.equal(features["head"][~dropped], 2 * features[before][~dropped])


def test_half_of_the_projection_is_dropped_in_training_only(images):
    net = small(DeepLabV3, projection="1x1", dropout=0.0)
    net.features_wanted = {"aspp", "refined"}
    features = net.eval()(images()).features
    assert torch.equal(features["refined"], net.refine(features["aspp"]))
    assert net.projection_dropout.p == 0.5
    assert not hasattr(small(DeepLabV3), "projection_dropout")


@pytest.mark.parametrize(
    ("network", "args"), [(DeepLabV3, {}), (DeepLabV3Plus, {}), (PSPNet, {}), (UPerNet, {}), (UPerNet, CIRKD_UPER)]
)
def test_align_corners_reaches_every_resize(network, args, images):
    net = small(network, **args).eval()
    corners = small(network, align_corners=True, **args).eval()
    corners.load_state_dict(net.state_dict())
    one, two = net(images()), corners(images())
    assert (one.align_corners, two.align_corners) == (False, True)
    # DeepLabV3 resizes only a single pooled value inside, which has no corners, and CIRKD's UPerNet never aligns inside
    assert torch.equal(one.logits, two.logits) == (network is DeepLabV3 or args == CIRKD_UPER)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [6, 12, 18])])
def test_pyramid_rates_follow_the_output_stride(output_stride, rates):
    separable = small(DeepLabV3Plus, output_stride=output_stride)
    assert [branch.depthwise.conv.dilation[0] for branch in separable.aspp.branches[1:]] == rates
    for network, args in ((DeepLabV3, {}), (DeepLabV3Plus, {"separable": False})):
        whole = small(network, output_stride=output_stride, **args)
        assert [branch.conv.dilation[0] for branch in whole.aspp.branches[1:]] == rates


@pytest.mark.parametrize(
    ("network", "num_classes", "args", "parameters", "entries"),
    [
        # mmsegmentation's
        (PSPNet, 19, {"backbone": "resnet101", "stem": "v1c"}, 67_967_622, 676),
        (PSPNet, 19, {"backbone": "resnet18", "stem": "v1c"}, 12_790_086, 172),
        (DeepLabV3, 19, {"backbone": "resnet101", "stem": "v1c"}, 87_105_158, 682),
        (DeepLabV3, 19, {"backbone": "resnet18", "stem": "v1c"}, 13_986_374, 178),
        (DeepLabV3, 19, {"backbone": "mobilenetv2_100", "width": 512}, 18_602_022, 352),
        (DeepLabV3Plus, 19, {"backbone": "resnet101", "stem": "v1c"}, 62_582_006, 730),
        (DeepLabV3Plus, 19, {"backbone": "mobilenetv2_100", "width": 512}, 15_244_374, 400),
        # AICSD's and UniMatch's
        (DeepLabV3Plus, 21, AICSD | {"backbone": "resnet101"}, 59_344_309, None),
        (DeepLabV3Plus, 21, AICSD | {"backbone": "resnet18"}, 16_608_181, None),
        (DeepLabV3Plus, 21, AICSD | {"backbone": "mobilenetv2_100"}, 5_816_053, None),
        (DeepLabV3Plus, 21, UNIMATCH | {"backbone": "resnet50"}, 40_475_957, None),
        # CIRKD's and DIST's, in millions
        (DeepLabV3, 19, CIRKD | {"backbone": "resnet18", "width": 128, "aux_width": 64}, 13.6, None),
        (DeepLabV3, 19, CIRKD | {"backbone": "resnet18", "width": 512, "aux_width": 64}, 22.8, None),
        (DeepLabV3, 19, CIRKD | {"backbone": "resnet101", "width": 256, "aux_width": 256}, 61.1, None),
        (PSPNet, 19, {"stem": "v1s", "backbone": "resnet18", "level_width": 128, "aux_width": 64}, 12.9, None),
    ],
)
def test_sizes_of_the_published_networks(network, num_classes, args, parameters, entries):
    """Parameters and, where they are known, entries of the state dict, auxiliary heads included."""
    with torch.device("meta"):
        net = network(num_classes, **args)
    count = sum(p.numel() for p in net.parameters())
    assert entries in (None, len(net.state_dict()))
    assert (round(count / 1e6, 1) if isinstance(parameters, float) else count) == parameters


@pytest.mark.parametrize(
    ("backbone", "feature", "key"),
    [
        ("resnet18", "stage4_pre", "layer4.1.bn2"),
        ("resnet50", "stage3_pre", "layer3.5.bn3"),
        ("mobilenetv2_035", "stage4", "blocks.6.0.bn3"),
    ],
)
def test_batch_norms_behind_the_features(backbone, feature, key):
    network = DeepLabV3(5, backbone=backbone, width=8)
    norm = network.get_submodule(f"backbone.{key}")
    assert network.norms[feature][0] is norm.weight and network.norms[feature][1] is norm.bias
    assert all(weight.shape == (network.channels[name],) for name, (weight, _) in network.norms.items())
