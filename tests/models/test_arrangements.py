"""DeepLabV3 and PSPNet as in the papers, torchvision, CIRKD and DIST; mmsegmentation's arrangement is the default."""

import pytest
import torch

from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.pspnet import PSPNet


def images(batch=2):
    return torch.randint(0, 256, (batch, 3, 65, 97), dtype=torch.uint8, generator=torch.manual_seed(0))


def small(network, **args):
    torch.manual_seed(0)
    return network(5, width=16, **args)


ORIGINALS = [
    (DeepLabV3, {"projection": "1x1", "dropout_kind": "elements", "align_corners": True, "head_init": "torch"}),
    (PSPNet, {"level_width": 12, "dropout_kind": "elements", "align_corners": True, "head_init": "torch"}),
]


@pytest.mark.parametrize(("network", "args"), ORIGINALS)
def test_arrangement_of_the_papers(network, args):
    net = small(network, dropout=0.5, **args).train()
    before = {DeepLabV3: "refined", PSPNet: "pyramid"}[network]
    net.features_wanted = set(net.channels)
    prediction = net(images())
    features = prediction.features
    assert list(features) == list(net.channels)
    kept = features["head"] != 0
    assert torch.equal(features["head"][kept], 2 * features[before][kept])
    # single values are dropped, not whole channels
    assert 0.3 < kept.flatten(2).float().mean(dim=2).max() < 0.7
    weight = torch.randn(prediction.logits.shape, generator=torch.manual_seed(1))
    ((prediction.logits * weight).sum() + (prediction.aux * torch.randn_like(prediction.aux)).sum()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_half_of_the_projection_is_dropped_in_training_only():
    net = small(DeepLabV3, projection="1x1", dropout=0.0)
    net.features_wanted = {"aspp", "refined"}
    features = net.eval()(images()).features
    assert torch.equal(features["refined"], net.refine(features["aspp"]))
    assert net.projection_dropout.p == 0.5
    assert not hasattr(small(DeepLabV3), "projection_dropout")
    with pytest.raises(ValueError, match="projection must be 3x3 or 1x1, got 'none'"):
        small(DeepLabV3, projection="none")


@pytest.mark.parametrize(
    ("network", "args", "millions"),
    [
        (DeepLabV3, {"backbone": "resnet18", "projection": "1x1", "width": 128, "aux_width": 64}, 13.6),
        (DeepLabV3, {"backbone": "resnet18", "projection": "1x1", "width": 512, "aux_width": 64}, 22.8),
        (DeepLabV3, {"backbone": "resnet101", "projection": "1x1", "width": 256, "aux_width": 256}, 61.1),
        (PSPNet, {"backbone": "resnet18", "level_width": 128, "aux_width": 64}, 12.9),
    ],
)
def test_sizes_of_cirkds_networks(network, args, millions):
    """CIRKD's and DIST's parameter counts at 19 classes, auxiliary head included."""
    with torch.device("meta"):
        net = network(19, stem="v1s", **args)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions
