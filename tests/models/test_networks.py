"""The three dilated networks: strides, dropout, initial weights, arguments. See also test_every_network.py."""

import math

import pytest
import torch

from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.deeplabv3plus import DeepLabV3Plus
from segkd.models.pspnet import PSPNet

NETWORKS = [DeepLabV3, DeepLabV3Plus, PSPNet]
HEIGHT, WIDTH = 65, 97


def images(batch=2, seed=0):
    return torch.randint(0, 256, (batch, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.manual_seed(seed))


def small(network, **args):
    """Narrow heads keep the tests fast; the widths of the papers are checked by parameter count."""
    torch.manual_seed(0)
    return network(5, **({"backbone": "mobilenetv2_035", "width": 16} | args))


def at_stride(stride):
    return math.ceil(HEIGHT / stride), math.ceil(WIDTH / stride)


@pytest.mark.parametrize(
    ("backbone", "output_stride"), [("mobilenetv2_035", 8), ("resnet18", 16), ("mobilenetv2_035", 32)]
)
@pytest.mark.parametrize("network", NETWORKS)
def test_sizes_at_every_stride(network, backbone, output_stride):
    net = small(network, backbone=backbone, output_stride=output_stride).eval()
    net.features_wanted, net.aux_wanted = set(net.channels) - {"stage2"}, True
    with torch.no_grad():
        prediction = net(images(1))
    assert net.strides["stage4"] == output_stride and net.strides["stage1"] == 4
    assert list(prediction.features) == [name for name in net.channels if name != "stage2"]
    for name, feature in prediction.features.items():
        assert feature.shape == (1, net.channels[name], *at_stride(net.strides[name])), name
    assert prediction.aux.shape == (1, 5, *at_stride(net.strides["stage3"]))
    assert torch.equal(net.classifier(prediction.features["head"]), prediction.logits)


@pytest.mark.parametrize("network", NETWORKS)
def test_without_aux_head(network):
    net = small(network, aux=False).train()
    assert net(images()).aux is None
    assert not any(key.startswith("aux_head") for key in net.state_dict())


@pytest.mark.parametrize("network", NETWORKS)
def test_stage_is_relu_of_its_sum_and_wanting_it_changes_nothing(network):
    net = small(network, backbone="resnet18", stem="v1s").eval()
    plain = net(images()).logits
    wanted = {f"stage{k}" for k in (1, 2, 3, 4)} | {f"stage{k}_pre" for k in (1, 2, 3, 4)}
    net.features_wanted = wanted
    prediction = net(images())
    assert set(prediction.features) == wanted
    for k in (1, 2, 3, 4):
        before = prediction.features[f"stage{k}_pre"]
        assert before.min() < 0
        assert torch.equal(prediction.features[f"stage{k}"], before.clamp(min=0))
    assert torch.equal(prediction.logits, plain)


def test_mobilenet_stages_are_linear():
    net = small(PSPNet).eval()
    assert not any(name.endswith("_pre") for name in net.channels)
    net.features_wanted = {"stage4"}
    assert net(images()).features["stage4"].min() < 0


@pytest.mark.parametrize("network", NETWORKS)
def test_head_is_read_after_dropout(network):
    before = {DeepLabV3: "aspp", DeepLabV3Plus: "decoder", PSPNet: "pyramid"}[network]
    net = small(network, dropout=0.5).train()
    net.features_wanted = {before, "head"}
    prediction = net(images())
    features = prediction.features
    assert torch.equal(net.classifier(features["head"]), prediction.logits)
    kept = features["head"].flatten(2).any(dim=2)  # (B, C)
    assert 0 < kept.sum() < kept.numel()
    # kept channels are doubled: whole channels are dropped, not single values
    assert torch.equal(features["head"][kept], 2 * features[before][kept])


@pytest.mark.parametrize("network", NETWORKS)
def test_classifiers_start_small(network):
    torch.manual_seed(0)
    net = network(50, backbone="mobilenetv2_035")
    for classifier in (net.classifier, net.aux_head.classifier):
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert classifier.bias.abs().max() == 0


@pytest.mark.parametrize("network", NETWORKS)
def test_align_corners_reaches_every_resize(network):
    net = small(network).eval()
    corners = small(network, align_corners=True).eval()
    corners.load_state_dict(net.state_dict())
    one, two = net(images()), corners(images())
    assert (one.align_corners, two.align_corners) == (False, True)
    # DeepLabV3 resizes only a single pooled value inside, which has no corners
    assert torch.equal(one.logits, two.logits) == (network is DeepLabV3)


@pytest.mark.parametrize("network", NETWORKS)
def test_errors(network):
    with pytest.raises(ValueError, match="no backbone 'resnet19'; there are: resnet18"):
        network(5, backbone="resnet19")
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        network(5, output_stride=4)
    net = small(network)
    with pytest.raises(ValueError, match="batch of 1 in training"):
        net.train()(images(1))
    net.eval()(images(1))


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [6, 12, 18])])
def test_pyramid_rates_follow_the_output_stride(output_stride, rates):
    plain = small(DeepLabV3, output_stride=output_stride)
    assert [branch.conv.dilation[0] for branch in plain.aspp.branches[1:]] == rates
    separable = small(DeepLabV3Plus, output_stride=output_stride)
    assert [branch.depthwise.conv.dilation[0] for branch in separable.aspp.branches[1:]] == rates
    whole = small(DeepLabV3Plus, output_stride=output_stride, separable=False)
    assert [branch.conv.dilation[0] for branch in whole.aspp.branches[1:]] == rates


@pytest.mark.parametrize(
    ("network", "args", "parameters", "entries"),
    [
        (PSPNet, {"backbone": "resnet101", "stem": "v1c"}, 67_967_622, 676),
        (PSPNet, {"backbone": "resnet18", "stem": "v1c"}, 12_790_086, 172),
        (DeepLabV3, {"backbone": "resnet101", "stem": "v1c"}, 87_105_158, 682),
        (DeepLabV3, {"backbone": "resnet18", "stem": "v1c"}, 13_986_374, 178),
        (DeepLabV3, {"backbone": "mobilenetv2_100", "width": 512}, 18_602_022, 352),
        (DeepLabV3Plus, {"backbone": "resnet101", "stem": "v1c"}, 62_582_006, 730),
        (DeepLabV3Plus, {"backbone": "mobilenetv2_100", "width": 512}, 15_244_374, 400),
    ],
)
def test_sizes_of_the_published_networks(network, args, parameters, entries):
    """mmsegmentation's parameter and state-dict counts at 19 classes, auxiliary head included."""
    with torch.device("meta"):
        net = network(19, **args)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == entries


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


def test_auxiliary_scores_in_eval_mode_only_when_wanted():
    network = PSPNet(5, width=8).eval()
    images = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    assert network(images).aux is None
    network.aux_wanted = True
    assert network(images).aux.shape == (1, 5, 5, 5)
    network = PSPNet(5, width=8, aux=False).eval()
    network.aux_wanted = True
    assert network(images).aux is None
