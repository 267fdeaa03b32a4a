"""Any timm network as a backbone: timm's own features, true strides at any size, errors in words."""

import pydantic
import pytest
import timm
import torch
import torch.nn.functional as F

from segkd.models._backbones import Backbone, build_backbone
from segkd.models._class_map import ClassMapped
from segkd.models._weights import fill
from segkd.models.deeplabv3plus import DeepLabV3Plus

STAGES = ["stage1", "stage2", "stage3", "stage4"]
# small ones of each kind: CNNs with and without dilation, windows with channels last, a hybrid, a plain transformer
NETWORKS = [("test_resnet", 8), ("test_convnext", 8), ("test_efficientnet", 16), ("mobilenetv4_conv_small_035", 8),
            ("hgnetv2_b0", 32), ("swin_tiny_patch4_window7_224", 32), ("edgenext_xx_small", 32),
            ("test_vit", 16)]  # fmt: skip


@pytest.mark.parametrize(("name", "output_stride"), NETWORKS)
def test_strides_channels_and_gradients(name, output_stride):
    backbone = build_backbone(f"timm/{name}", output_stride).train()
    maps = backbone(torch.randn(2, 3, 64, 96), set())
    assert list(maps) == list(backbone.channels) == list(backbone.strides) == STAGES
    for stage, x in maps.items():
        stride = backbone.strides[stage]
        assert x.shape == (2, backbone.channels[stage], 64 // stride, 96 // stride), stage
    assert backbone.strides["stage4"] == output_stride
    maps["stage4"].square().mean().backward()
    assert [key for key, value in backbone.named_parameters() if value.requires_grad and value.grad is None] == []


@pytest.mark.parametrize(("name", "arguments"), [
    ("test_resnet", {"output_stride": 8}), ("test_convnext", {"output_stride": 16}), ("hgnetv2_b0", {}),
    ("mobilenetv4_conv_small_035", {"output_stride": 8}), ("edgenext_xx_small", {}),
    ("swin_tiny_patch4_window7_224", {"strict_img_size": False}),
])  # fmt: skip
def test_features_are_timms(name, arguments):
    reference = timm.create_model(name, features_only=True, **arguments).eval()
    backbone = build_backbone(f"timm/{name}", arguments.get("output_stride", 32)).eval()
    # timm's extractor writes some dots of its keys as underscores
    own = {key.removeprefix("net.").replace(".", "_"): value for key, value in backbone.state_dict().items()}
    reference.load_state_dict({key: own[key.replace(".", "_")] for key in reference.state_dict()})
    x = torch.randn(1, 3, 64, 96, generator=torch.manual_seed(1))
    with torch.no_grad():
        found, expected = backbone(x, set()), reference(x)[-4:]
    for (stage, ours), theirs in zip(found.items(), expected):
        if theirs.shape[1] != backbone.channels[stage]:
            theirs = theirs.permute(0, 3, 1, 2)
        assert torch.equal(ours, theirs) and theirs.std() > 0, stage


def test_a_plain_transformer_gives_a_map_after_each_quarter():
    backbone = build_backbone("timm/vit_tiny_patch16_224", 16).eval()
    reference = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True).eval()
    fill(reference, {key.removeprefix("net."): value for key, value in backbone.state_dict().items()}, "", strict=False)
    x = torch.randn(1, 3, 64, 48, generator=torch.manual_seed(1))
    with torch.no_grad():
        found = backbone(x, set())
        expected = reference.forward_intermediates(x, indices=[2, 5, 8, 11], intermediates_only=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.values(), expected))


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224"])
def test_an_image_of_any_size_is_padded_below_and_to_the_right(name, images):
    """For the network as a whole: of its maps, those of a large stride show more of the padding than others do."""
    net = DeepLabV3Plus(3, backbone=f"timm/{name}", output_stride=32, width=8).eval()
    net.features_wanted = {*STAGES, "aspp", "low_level", "head"}
    with torch.no_grad():
        whole = net.compute(F.pad(net.normalize(images()), (0, 31, 0, 31)), net.features_wanted, None)
        cut = net(images())
        mapped = ClassMapped(net, [[2], [1], [0]], "abc", "cba")(images())
    for found, expected in [
        *((maps, whole[name]) for name, maps in cut.features.items()),
        (cut.logits, whole["logits"]),
    ]:
        stride = 96 // expected.shape[-2]
        assert torch.equal(found, expected[..., : -(-65 // stride), : -(-97 // stride)])
    assert torch.equal(mapped.logits, cut.logits.flip(1)) and cut.logits.shape[-2:] == (17, 25)


def test_a_network_that_makes_the_sides_of_its_maps_even():
    """MobileViTv2's last stages; of 96 pixels its stride 32 would show 4 cells in place of 3."""
    backbone = build_backbone("timm/mobilevitv2_050", 32).eval()
    assert backbone.read_size((65, 97)) == (128, 128) and backbone.strides["stage4"] == 32
    with torch.no_grad():
        logits = (
            DeepLabV3Plus(3, backbone="timm/mobilevitv2_050", output_stride=32, width=8)
            .eval()(torch.rand(1, 3, 65, 97))
            .logits
        )
    assert logits.shape[-2:] == (17, 25)


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224", "test_vit", "test_efficientnet"])
def test_weights_under_timms_keys_fit(name):
    backbone = build_backbone(f"timm/{name}", 16 if name == "test_vit" else 32)
    published = timm.create_model(name)
    fill(backbone, backbone.fitted(published.state_dict()), name, dropped=backbone.dropped)
    own, theirs = backbone.state_dict(), published.state_dict()
    assert all(torch.equal(value, theirs[key.removeprefix("net.")]) for key, value in own.items())
    assert backbone.imagenet == name


def test_building_draws_the_networks_own_numbers_only():
    torch.manual_seed(0)
    backbone = build_backbone("timm/test_vit", 16)
    after = torch.rand(1)
    torch.manual_seed(0)
    reference = timm.create_model("test_vit", dynamic_img_size=True)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(backbone.net.patch_embed.proj.weight, reference.patch_embed.proj.weight)


@pytest.mark.parametrize(("name", "output_stride", "message"), [
    ("convnxt_tiny", 32, "timm has no network 'convnxt_tiny'; did you mean convnext_tiny, "),
    ("convnext_tiny.fb", 32, "no network 'convnext_tiny.fb'; did you mean convnext_tiny.fb_in1k"),
    ("hf-hub:owner/name", 32, "timm has no network 'hf-hub:owner/name'"),
    ("hgnetv2_b0", 8, "timm/hgnetv2_b0 has the output stride 32 and takes no other, got 8"),
    ("test_vit", 32, "timm/test_vit has the output stride 16 and takes no other, got 32"),
    ("efficientvit_m0", 32, "timm/efficientvit_m0 does not give the four feature levels a backbone needs"),
    ("coatnet_nano_rw_224", 32, "timm/coatnet_nano_rw_224 does not take images of any size .*it cannot be a backbone"),
])  # fmt: skip
def test_errors(name, output_stride, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(f"timm/{name}", output_stride)


def test_the_type_names_what_there_is():
    check = pydantic.TypeAdapter(Backbone, config=pydantic.ConfigDict(strict=True))
    for name in ("resnet18", "mobilevit_xxs", "timm/convnext_tiny"):
        assert check.validate_json(f'"{name}"') == name
    for wrong in ('"resnet81"', '"timm/"', "18"):
        with pytest.raises(
            pydantic.ValidationError, match="(?s)'resnet18'.*'mobilevit_s'.*must be timm/<name"
        ) as error:
            check.validate_json(wrong)
        assert error.value.error_count() == 3
