"""TriKD's three views. See also test_every_network.py."""

import functools

import pytest
import torch

from segkd.models.trikd_deit import TriKDDeiT
from segkd.models.trikd_resnet import TriKDResNet
from segkd.models.trikd_tinyvit import TriKDTinyViT

WIDTHS = (4, 6, 8, 10)

tinyvit = functools.partial(TriKDTinyViT, variant="5m", widths=WIDTHS)
heads = functools.partial(TriKDTinyViT, variant="5m", widths=WIDTHS, distill_heads=True)
resnet = functools.partial(TriKDResNet, backbone="resnet50", widths=WIDTHS)
deit = functools.partial(TriKDDeiT, variant="tiny", image_size=(64, 96), neck_width=12, widths=WIDTHS)
VIEWS = [tinyvit, heads, resnet, deit]


def small(view, **args):
    torch.manual_seed(0)
    net = view(5, **args)
    for block in net.backbone.stages[0].blocks if view in (tinyvit, heads) else []:
        torch.nn.init.ones_(block.conv3.bn.weight)  # starts at 0, and so do gradients behind it
    return net


def test_frozen_for_checkpoints_alone():
    frozen = [{name for name, p in small(view).named_parameters() if not p.requires_grad} for view in VIEWS]
    table = {"backbone.stages.3.blocks.1.attn.attention_biases"}
    assert frozen == [table, table, set(), {"backbone.cls_token"}]


def test_heads_nobody_reads_get_no_gradient(images):
    net = small(heads).train()
    net(images()).logits.square().sum().backward()
    without = {name for name, p in net.named_parameters() if p.requires_grad and p.grad is None}
    assert without == {f"{head}.{kind}" for head in ("low_head", "high_head") for kind in ("weight", "bias")}


@pytest.mark.parametrize("view", [heads, deit])
def test_attention_is_float32_whatever_the_autocast(view, images):
    net = small(view).eval()
    net.features_wanted = {"attention"}
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = net(images())
    assert prediction.logits.dtype == torch.bfloat16
    assert prediction.features["attention"].dtype == torch.float32


def test_the_cnns_goal_for_low_is_its_first_stage(images):
    net = small(resnet).eval()
    net.features_wanted = {"low", "stage1"}
    features = net(images()).features
    assert torch.equal(features["low"], features["stage1"])


def test_neck_the_right_way_up(images):
    net = small(deit, neck_scales=(4.0, 2.0, 1.0, 0.5)).eval()
    assert net.strides["head"] == 4
    assert net(images(1, 64, 96)).logits.shape == (1, 5, 16, 24)


@pytest.mark.parametrize("view", [tinyvit, deit])
def test_any_size(view, images):
    net = small(view).eval()
    with torch.no_grad():
        for size in ((32, 32), (17, 40), (97, 33)):
            assert net(images(1, *size)).resized(size).shape == (1, 5, *size)


@pytest.mark.parametrize(
    ("network", "args", "parameters"),
    [
        (TriKDTinyViT, {"distill_heads": True}, 18_305_467),
        (TriKDTinyViT, {"distill_heads": True, "variant": "21m"}, 29.13e6),
        (TriKDResNet, {}, 71_717_971),
        (TriKDDeiT, {"image_size": (128, 128)}, 100_787_971),
        (TriKDDeiT, {}, 101.53e6),
    ],
)
def test_sizes_of_the_published_networks(network, args, parameters):
    with torch.device("meta"):
        net = network(19, **args)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(parameters, abs=5e3 * (parameters % 10 == 0))


def test_arguments_follow_the_variant():
    with torch.device("meta"):
        nets = [TriKDTinyViT(5, variant="21m"), TriKDTinyViT(5, variant="21m", windows=(7, 14, 7))]
    rates = [net.backbone.stages[3].blocks[1].drop_path2.drop_prob for net in nets]
    assert rates == pytest.approx([0.1, 0.2])
    assert nets[0].backbone.stages[2].blocks[0].attn.attention_biases.shape == (12, 32 * 32)


def test_checkpoints_of_other_sizes(images):
    net, other = (small(deit, image_size=size).eval() for size in ((64, 64), (112, 160)))
    other.load_state_dict(other.fitted(net.state_dict()))
    # between aligned corners a grid of 4 x 4 lies on one of 7 x 10, which is read resized back to it
    torch.testing.assert_close(other(images(1, 64, 64)).logits, net(images(1, 64, 64)).logits)
    net, other = small(heads), small(tinyvit, windows=(5, 7, 5))
    other.load_state_dict(other.fitted(net.state_dict()))
