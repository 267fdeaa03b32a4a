"""Heads against bare loops and closed forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkd.models._heads import ASPP, ConvBNReLU, FCNHead, PooledConv, PyramidPooling, SeparableConv, init_heads


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(0))


def block(x, layer):
    """ConvBNReLU in eval mode, written out: batch norm with the running statistics."""
    conv, bn = layer.conv, layer.bn
    x = F.conv2d(x, conv.weight, None, 1, conv.padding, conv.dilation, conv.groups)
    scale = bn.weight / (bn.running_var + 1e-5).sqrt()
    return (x * scale.view(1, -1, 1, 1) + (bn.bias - bn.running_mean * scale).view(1, -1, 1, 1)).clamp(min=0)


@pytest.mark.parametrize("projection", ["3x3", "1x1"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_aspp_is_its_five_branches(projection, align_corners):
    aspp = ASPP(6, 4, (2, 3, 5), align_corners, projection=projection).double().eval()
    x = rand(2, 6, 7, 9)
    pooled = [block(x.mean(dim=(2, 3), keepdim=True), aspp.image_pool.conv).repeat(1, 1, 7, 9)]
    branches = [block(x, branch) for branch in aspp.branches]
    maps = pooled + branches if projection == "3x3" else branches + pooled
    assert torch.allclose(aspp(x), block(torch.cat(maps, 1), aspp.project), rtol=1e-12, atol=1e-12)
    assert [branch.conv.dilation[0] for branch in aspp.branches] == [1, 2, 3, 5]
    assert aspp.project.conv.kernel_size == ((1, 1) if projection == "1x1" else (3, 3))


def test_before_relu():
    x = rand(2, 6, 7, 9)
    for part in (ConvBNReLU(6, 4, 3), SeparableConv(6, 4, 2), ASPP(6, 4, (2, 3, 5), align_corners=False)):
        part.double().eval()
        before = part.before_relu(x)
        assert before.min() < 0 and torch.equal(part(x), before.clamp(min=0))


def test_separable_aspp_keeps_its_1x1_whole():
    aspp = ASPP(6, 4, (2, 3, 5), align_corners=False, separable=True)
    assert [isinstance(branch, SeparableConv) for branch in aspp.branches] == [False, True, True, True]
    assert aspp.branches[2].depthwise.conv.dilation == (3, 3)
    assert aspp(rand(2, 6, 7, 9).float()).shape == (2, 4, 7, 9)


@pytest.mark.parametrize("align_corners", [False, True])
def test_pyramid_is_x_beside_its_levels(align_corners):
    pyramid = PyramidPooling(6, 4, align_corners).double().eval()
    x = rand(2, 6, 12, 18)  # every grid divides it: a level is a plain mean over equal windows
    maps = [x]
    for level, bins in zip(pyramid.levels, (1, 2, 3, 6)):
        means = x.view(2, 6, bins, 12 // bins, bins, 18 // bins).mean(dim=(3, 5))
        maps.append(F.interpolate(block(means, level.conv), (12, 18), mode="bilinear", align_corners=align_corners))
    assert torch.allclose(pyramid(x), block(torch.cat(maps, 1), pyramid.project), rtol=1e-12, atol=1e-12)


def test_global_pool_gradient_equals_the_resized_one():
    pool = PooledConv(3, 2, 1, align_corners=False).double().eval()
    x, weight = rand(2, 3, 4, 5).requires_grad_(), rand(2, 2, 4, 5)
    (ours,) = torch.autograd.grad((pool(x) * weight).sum(), x)
    y = F.interpolate(pool.conv(x.mean(dim=(2, 3), keepdim=True)), (4, 5), mode="bilinear", align_corners=False)
    (reference,) = torch.autograd.grad((y * weight).sum(), x)
    assert torch.allclose(ours, reference, rtol=1e-12, atol=1e-14)


def test_batch_of_one_is_refused_only_where_batch_norm_fails():
    pool = PooledConv(3, 2, 1, align_corners=False)
    one = torch.randn(1, 3, 4, 5)
    with pytest.raises(ValueError, match="batch of 1 in training.* 2 images or more per process"):
        pool(one)
    pool.conv.bn.eval()  # frozen statistics need no second image
    pool(one)
    PooledConv(3, 2, 2, align_corners=False)(one)


def test_fcn_head_drops_whole_channels_in_training_only():
    head = FCNHead(6, 8, 3, dropout=0.5)
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(head.eval()(x), head.classifier(head.conv(x)))
    assert isinstance(head.dropout, nn.Dropout2d) and head.dropout.p == 0.5


def test_initial_weights():
    torch.manual_seed(0)
    network = nn.Module()
    network.backbone, network.head = nn.Conv2d(8, 8, 3), FCNHead(64, 128, 50, dropout=0.1)
    as_made = {key: value.clone() for key, value in network.state_dict().items()}
    init_heads(network, "torch")
    assert all(torch.equal(value, as_made[key]) for key, value in network.state_dict().items())
    conv, classifier = network.head.conv.conv, network.head.classifier
    stds = {"fan_in": ((2 / (64 * 9)) ** 0.5, (2 / 128) ** 0.5), "kaiming": ((2 / (128 * 9)) ** 0.5, 0.01)}
    for rule, (of_conv, of_classifier) in stds.items():
        init_heads(network, *([rule] if rule != "kaiming" else []))  # the default
        assert torch.equal(network.backbone.weight, as_made["backbone.weight"])
        assert conv.weight.std().item() == pytest.approx(of_conv, rel=0.02)
        assert classifier.weight.std().item() == pytest.approx(of_classifier, rel=0.05)
        assert torch.equal(classifier.bias, as_made["head.classifier.bias"]) == (rule == "fan_in")
    assert classifier.bias.abs().max() == 0
