"""What a network's parts put out, as features by their path: of any network, whoever wrote the part."""

import pytest
import timm
import torch
import torch.nn.functional as F

from segkd.models._class_map import ClassMapped
from segkd.models.bare_encoder import BareEncoder
from segkd.models.deeplabv3plus import DeepLabV3Plus
from segkd.models.pspnet import PSPNet
from segkd.runner.building.frozen import Cheaper


def asked(net, *names):
    for name in names:
        net.measure(name)
    net.features_wanted = set(names)
    return net.eval()


def test_a_block_of_timm_s_without_its_class_token(images):
    net = asked(BareEncoder(5, backbone="timm/test_vit"), "module:backbone.net.blocks.2")
    reference = timm.create_model("test_vit", dynamic_img_size=True).eval()
    reference.load_state_dict(
        {key.removeprefix("backbone.net."): x for key, x in net.state_dict().items()}, strict=False
    )
    found = net(images()).features["module:backbone.net.blocks.2"]
    padded = F.pad(net.normalize(images()), (0, 15, 0, 15))
    (expected,) = reference.forward_intermediates(padded, indices=[2], intermediates_only=True)
    assert torch.equal(found, expected) and found.shape[1:] == (net.channels["module:backbone.net.blocks.2"], 5, 7)
    assert net.strides == net.strides | {"module:backbone.net.blocks.2": 16}


def test_what_an_activation_in_place_overwrites_is_what_it_was(images):
    name = "module:pyramid.project.bn"
    net = asked(PSPNet(3, backbone="mobilenetv2_035", width=8), name)
    net.features_wanted |= {"pyramid"}
    found = net(images()).features
    assert net.overwritten == {name} and (found[name] < 0).any()
    assert torch.equal(found[name].relu(), found["pyramid"])
    found[name].sum().backward()
    assert net.pyramid.project.conv.weight.grad.abs().sum() > 0


def test_parts_of_our_own_networks_and_of_networks_inside_of_others(images):
    net = DeepLabV3Plus(3, backbone="mobilenetv2_035", width=8, aux=False)
    assert asked(net, "module:backbone.blocks.0").strides["module:backbone.blocks.0"] == 2
    plain = net(images()).features
    mapped = ClassMapped(net, [[2], [1], [0]], "abc", "cba")
    assert torch.equal(asked(mapped, *plain)(images()).features["module:backbone.blocks.0"], *plain.values())
    smaller = asked(Cheaper(net, scale=0.5), *plain)
    assert smaller.strides == smaller.strides | {"module:backbone.blocks.0": 4.0}
    assert smaller(images()).features["module:backbone.blocks.0"].shape[-2:] == (16, 24)


def test_what_is_no_part_or_no_map():
    net = DeepLabV3Plus(3, backbone="mobilenetv2_035", width=8, aux=False)
    with pytest.raises(
        ValueError, match="DeepLabV3Plus has no module 'stem'; its outermost ones are normalize, backbone"
    ):
        net.measure("module:stem")
    with pytest.raises(
        ValueError, match="the output of module 'pyramid.levels.0.conv' is no feature map; name another"
    ):
        PSPNet(3, backbone="mobilenetv2_035", width=8).measure("module:pyramid.levels.0.conv")
