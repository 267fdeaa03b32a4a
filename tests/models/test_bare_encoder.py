"""Encoders of transformers and timm without a head, tiny ones, against what the two libraries make of them."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoConfig, AutoModel
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from segkd.models.bare_encoder import BareEncoder
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.upernet import UPerNet

STAGES = ["stage1", "stage2", "stage3", "stage4"]
VIT = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64,
           patch_size=16)  # fmt: skip
TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=9)
WINDOWS = VIT | dict(window_size=2, global_attn_indexes=[1, 3])
HIERA = dict(
    model_type="sam2_hiera_det_model", hidden_size=8, num_attention_heads=1, blocks_per_stage=[1, 2, 1, 1],
    embed_dim_per_stage=[8, 16, 24, 32], num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[4, 4, 4, 4],
    global_attention_blocks=[2], window_positional_embedding_background_size=[4, 4], image_size=[64, 64],
)  # fmt: skip
CONFIGS = {
    "dinov2": VIT | dict(model_type="dinov2", patch_size=14, image_size=56),
    "dinov3": VIT | dict(model_type="dinov3_vit", num_register_tokens=3),
    "siglip2": VIT | dict(model_type="siglip2_vision_model", num_patches=16),
    "clip": VIT | dict(model_type="clip_vision_model"),
    "vit_mae": VIT | dict(model_type="vit_mae"),
    "sam": WINDOWS | dict(model_type="sam_vision_model", output_channels=8, mlp_dim=32),
    "sam2": dict(model_type="sam2_vision_model", backbone_config=HIERA, backbone_channel_list=[32, 24, 16, 8],
                 fpn_hidden_size=8, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]]),
    "sam3": WINDOWS | dict(model_type="sam3_vit_model", pretrain_image_size=32),
    "swin": dict(model_type="swin", embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2),
    "convnext": dict(model_type="convnext", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    "hiera": dict(model_type="hiera", embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], image_size=[64, 64]),
}  # fmt: skip


def built(backbone, **arguments):
    """In eval mode, all features wanted, and no parameter at a start where it would not show."""
    torch.manual_seed(0)
    net = BareEncoder(5, backbone=CONFIGS[backbone] if backbone in CONFIGS else backbone, **arguments).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    net.features_wanted = set(net.channels)
    return net


def pixels(net, images, size):
    """Normalised images, padded to whole patches by hand."""
    x = net.normalize(images(height=size[0], width=size[1]))
    multiple = max(net.strides.values())
    return F.pad(x, (0, -size[1] % multiple, 0, -size[0] % multiple))


def compare(net, images, size, expected):
    """All features of a size of images against maps of the padded ones."""
    with torch.no_grad():
        found = net(images(height=size[0], width=size[1])).features
    for name, wanted in expected.items():
        height, width = (-(-side // net.strides[name]) for side in size)
        assert found[name].shape[2:] == (height, width) and found[name].std() > 0, name
        torch.testing.assert_close(found[name], wanted[..., :height, :width], rtol=1e-4, atol=1e-5, msg=name)


def as_maps(tokens, x, patch, first):
    """Tokens behind the first few as maps, cell by cell."""
    height, width = x.shape[-2] // patch, x.shape[-1] // patch
    rows = [tokens[:, first + width * row : first + width * (row + 1)] for row in range(height)]
    return torch.stack(rows, dim=1).movedim(-1, 1)


@torch.no_grad()
def by_transformers(kind, net, x):
    """The features as transformers' own forward has them."""
    own = net.backbone.net
    if kind in ("dinov2", "dinov3"):
        config = AutoConfig.for_model(
            **CONFIGS[kind], out_indices=[1, 2, 3, 4], apply_layernorm=net.backbone.norm is not None
        )
        backbone = transformers.AutoBackbone.from_config(config).eval()
        backbone.load_state_dict(own.state_dict())
        maps, first = backbone(x).feature_maps, 1 + CONFIGS[kind].get("num_register_tokens", 0)
        last = as_maps(own(x).last_hidden_state, x, CONFIGS[kind]["patch_size"], first)
        found = dict(zip(STAGES, maps)) | {"block2": maps[2], "last": last}
        if kind == "dinov3" and net.backbone.norm is None:  # whose last stage transformers' backbone always normalises
            found["stage4"] = as_maps(own(x, output_hidden_states=True).hidden_states[-1], x, 16, first)
        return found
    if kind == "siglip2":
        patches = torch.stack([convert_image_to_patches(image, 16) for image in x])
        shapes = torch.tensor([[side // 16 for side in x.shape[-2:]]] * len(x))
        output = own(patches, torch.ones(patches.shape[:2]), shapes, output_hidden_states=True)
        first = 0
    elif kind == "clip":
        output, first = own(x, interpolate_pos_encoding=True, output_hidden_states=True), 1
    elif kind == "convnext":
        output = own(x, output_hidden_states=True)
        return dict(zip(STAGES, output.hidden_states[1:])) | {"last": output.last_hidden_state}
    elif kind == "swin":
        backbone = transformers.SwinBackbone(AutoConfig.for_model(**CONFIGS[kind], out_indices=[1, 2, 3, 4])).eval()
        backbone.swin.load_state_dict(own.state_dict())
        backbone.hidden_states_norms = torch.nn.ModuleDict({stage: torch.nn.Identity() for stage in STAGES})
        return dict(zip(STAGES, backbone(x).feature_maps))
    else:
        trunk, output = own.backbone(x).intermediate_hidden_states, own(x)
        necks = {f"neck{level}": maps for level, maps in enumerate(output.fpn_hidden_states, start=1)}
        return {stage: maps.permute(0, 3, 1, 2) for stage, maps in zip(STAGES, trunk)} | necks
    blocks = [as_maps(tokens, x, 16, first) for tokens in output.hidden_states[1:]]
    return dict(zip(STAGES, blocks)) | {"block1": blocks[1], "last": as_maps(output.last_hidden_state, x, 16, first)}


@pytest.mark.parametrize("kind", ["dinov2", "dinov3", "siglip2", "clip", "sam2", "swin", "convnext"])
def test_features_are_those_of_transformers(kind, images):
    net = built(kind)
    whole = (84, 56) if kind == "dinov2" else (96, 64)
    for size in (whole, (65, 97)):
        compare(net, images, size, by_transformers(kind, net, pixels(net, images, size)))


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_the_last_norm_of_transformers(kind, images):
    net = built(kind, last_norm=True)
    compare(net, images, (65, 97), by_transformers(kind, net, pixels(net, images, (65, 97))))


@pytest.mark.parametrize("last_norm", [False, True])
@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "test_convnext"])
def test_features_are_those_of_timm(name, last_norm, images):
    flat = name != "test_convnext"
    net = built(f"timm/{name}", last_norm=last_norm)
    reference = timm.create_model(name, num_classes=0, **({"dynamic_img_size": True} if flat else {})).eval()
    state = {key.removeprefix("net."): value for key, value in net.backbone.state_dict().items()}
    assert reference.load_state_dict(state, strict=False).unexpected_keys == []
    for size in ((64, 96), (65, 97)):
        x = pixels(net, images, size)
        with torch.no_grad():
            maps = reference.forward_intermediates(x, norm=last_norm, intermediates_only=True)
            last = reference.forward_features(x)
        if flat:
            last = as_maps(last, x, net.strides["last"], reference.num_prefix_tokens)
        expected = {f"block{index}": block for index, block in enumerate(maps)} if flat else {}
        quarters = [len(maps) * number // 4 - 1 for number in (1, 2, 3, 4)]
        compare(net, images, size, expected | dict(zip(STAGES, [maps[i] for i in quarters])) | {"last": last})


def test_masked_autoencoders_see_all_patches_in_their_order(images):
    net, vit = built("vit_mae"), transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False).eval()
    vit.load_state_dict(net.backbone.net.state_dict())
    x = pixels(net, images, (64, 64))
    with torch.no_grad():
        tokens = vit(x, interpolate_pos_encoding=True).last_hidden_state
    compare(net, images, (64, 64), {"last": as_maps(tokens, x, 16, 1)})


@pytest.mark.parametrize("kind", ["sam", "sam3"])
def test_positions_of_another_size_are_as_if_it_had_been_built_for_it(kind, images):
    net, other = built(kind), AutoModel.from_config(AutoConfig.for_model(**CONFIGS[kind] | {"image_size": 96})).eval()
    state = net.backbone.net.state_dict()
    if kind == "sam":
        table = state["vision_encoder.pos_embed"].permute(0, 3, 1, 2)
        state["vision_encoder.pos_embed"] = F.interpolate(table, (6, 6), mode="bicubic").permute(0, 2, 3, 1)
        for key in [key for key in state if "rel_pos" in key and ("layers.1." in key or "layers.3." in key)]:
            state[key] = F.interpolate(state[key].T[None], 11, mode="linear")[0].T
    other.load_state_dict(state)
    x = pixels(net, images, (96, 96))
    with torch.no_grad():
        last = other(x).last_hidden_state
    compare(net, images, (96, 96), {"last": last if kind == "sam" else as_maps(last, x, 16, 0)})
    net(images(height=33, width=65))


def test_a_network_of_one_size_pads_to_it(images):
    net = built("hiera")
    with torch.no_grad():
        found = net(images(height=33, width=60)).features
        padded = F.pad(net.normalize(images(height=33, width=60)), (0, 4, 0, 31))
        whole = net.backbone.net(padded, output_hidden_states=True).reshaped_hidden_states
    assert torch.equal(found["stage1"], whole[1].permute(0, 3, 1, 2)[:, :, :9, :15])
    assert torch.equal(found["stage4"], whole[4].permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"hiera reads images of 64 x 64 pixels, got 65 x 64: .* window: \[64, 64\]"):
        net(images(height=65, width=64))


def test_half_precision_and_frozen(images):
    net = built("dinov3").requires_grad_(False)
    with torch.no_grad():
        single = net(images()).features
    with torch.autocast("cpu", torch.bfloat16):
        half = net(images()).features
    for name, maps in half.items():
        assert not maps.requires_grad and (maps - single[name]).abs().mean() < 0.05 * single[name].std(), name


WHOLE = {
    "clip": dict(vision_config=VIT, text_config=TEXT),
    "sam2": dict(vision_config=CONFIGS["sam2"]),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_published_weights_of_a_larger_network(kind, tmp_path, images):
    torch.manual_seed(1)
    whole = AutoModel.from_config(AutoConfig.for_model(kind, **WHOLE[kind]))
    whole.save_pretrained(tmp_path)
    processor = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    generator = torch.get_rng_state()
    net = BareEncoder(5, backbone=f"hf/{tmp_path}", pretrained=True)
    assert net.normalize.constants["mean"] == pytest.approx([127.5, 102.0, 76.5]) and net.training
    part = whole.vision_model if kind == "clip" else whole.vision_encoder
    assert all(torch.equal(value, part.state_dict()[key]) for key, value in net.backbone.net.state_dict().items())
    by_file = BareEncoder(5, backbone=f"hf/{tmp_path}", backbone_weights=str(tmp_path / "model.safetensors"))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in by_file.state_dict().items())
    assert not torch.equal(generator, torch.get_rng_state())  # of its random start, not of the published network
    drawn = torch.rand(1)
    torch.set_rng_state(generator)
    for _ in range(2):
        BareEncoder(5, backbone=f"hf/{tmp_path}")
    assert torch.equal(drawn, torch.rand(1))


def test_published_weights_that_lack_some(tmp_path):
    transformers.Dinov2Model(AutoConfig.for_model(**CONFIGS["dinov2"])).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(ValueError, match="has no weights for encoder.layer.4.* of Dinov2Model"):
        BareEncoder(5, backbone=f"hf/{tmp_path}", pretrained=True)


@pytest.mark.parametrize(("head", "kind", "stride"), [(DeepLabV3, "clip", 16), (UPerNet, "sam2", 32)])
def test_heads_on_encoders_of_transformers(head, kind, stride, images):
    torch.manual_seed(0)
    net = head(5, backbone=CONFIGS[kind], output_stride=stride, width=8)
    assert net(images()).resized((65, 97)).shape == (2, 5, 65, 97)
    arguments = json.loads(json.dumps(net.arguments_without_files({"backbone": "hf/somewhere", "width": 8})))
    again = head(5, **arguments, output_stride=stride)
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(images()).logits, net.eval()(images()).logits)
    with pytest.raises(ValueError, match=f"has the output stride {stride} and takes no other, got 8"):
        head(5, backbone=CONFIGS[kind], output_stride=8)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"backbone": {"model_type": "bert"}}, "has no encoder of images of type bert"),
    ({"backbone": {"hidden_size": 16}}, "config needs a model_type"),
    ({"backbone": {"model_type": "timm_wrapper", "architecture": "resnet18"}}, "write timm/<its name there>"),
    ({"backbone": CONFIGS["clip"] | {"num_hidden_layers": 3}}, "clip_vision_model does not give the four feature lev"),
    ({"backbone": CONFIGS["clip"], "last_norm": True}, "clip_vision_model has no norm behind its last block"),
    ({"backbone": CONFIGS["clip"], "stem": "v1c"}, "backbone clip_vision_model has the plain stem only"),
    ({"backbone": CONFIGS["clip"], "dilation_rule": "mmseg"}, "clip_vision_model has no dilation rule 'mmseg'"),
    ({"backbone": CONFIGS["clip"], "pretrained": True}, "no ImageNet weights for this backbone"),
    ({"backbone": "resnet18", "last_norm": True}, "backbone resnet18 has no last norm"),
    ({"backbone": "resnet18", "output_stride": 14}, "backbone resnet18 has no output stride 14"),
])  # fmt: skip
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BareEncoder(5, **arguments)
