"""Files of SAM in four codes and of TSIC: whose they are, what they tell, their entries there and back."""

import json
from pathlib import Path

import pytest
import timm
import torch
from segment_anything import sam_model_registry
from transformers import SamConfig, SamModel

from segkd.models import _checkpoints
from segkd.models._layouts import sam, tsic
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.sam import SAM

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "global_blocks": (1, 3), "window_size": 3, "out_channels": 16,
        "image_size": 64, "neck_width": 8, "head_width": 8, "taps": (0, 1, 2, 3)}  # fmt: skip


def published():
    with torch.device("meta"):
        return sam_model_registry["vit_b"]().state_dict()


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the recorded names are not here")
@pytest.mark.parametrize("code", ["meta", "openmmlab", "hf"])
def test_every_recorded_name_is_ours(code):
    entries = json.loads((GOLDEN / "tsic/sam_vit_b_keys.json").read_text())["keys"]
    state = {entry[code]: torch.empty(entry["shape"], device="meta") for entry in entries}
    wanted = {entry["meta"]: entry["shape"] for entry in entries}
    assert _checkpoints.guess(state) == "sam"
    assert {key: list(x.shape) for key, x in sam.write(sam.read(state)).items()} == wanted
    found = _checkpoints.describe(state, "sam")
    assert (found.model, found.normalize) == ("sam", "sam")
    assert found.args == {"head": None, "arch": "vit_b", "image_size": 1024}


def test_the_packages_names_are_ours_and_back():
    state = published()
    assert _checkpoints.guess(state) == "sam"
    ours = sam.read(state)
    again = sam.write(ours)
    assert again.keys() == state.keys() and all(again[key] is state[key] for key in state)
    with torch.device("meta"):
        network = SAM(2, prompt_guidance="released", image_size=512)
    own = network.state_dict()
    assert {key for key in own if key.startswith(("backbone.", "prompt_encoder.", "mask_decoder."))} == ours.keys()


@pytest.mark.parametrize(("name", "arch"), [("samvit_base_patch16", "vit_b"), ("samvit_large_patch16", "vit_l")])
def test_timms_encoder(name, arch):
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
        encoder = SAM(2, arch=arch, head=None).backbone.state_dict()
    assert _checkpoints.guess(state) == "sam" and _checkpoints.describe(state, "sam").args["arch"] == arch
    ours = _checkpoints.read(state, "sam")
    assert {key: x.shape for key, x in ours.items()} == {f"backbone.{key}": x.shape for key, x in encoder.items()}


@torch.no_grad()
def test_hugging_faces_network_gives_the_same_map():
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "global_attn_indexes": [1, 3]}
    sizes |= {"window_size": 3, "output_channels": 16, "image_size": 64, "mlp_dim": 128}
    small = {"hidden_size": 16}
    config = SamConfig(vision_config=sizes, prompt_encoder_config=small, mask_decoder_config=small)
    torch.manual_seed(0)
    theirs = SamModel(config).eval()
    for name, weight in theirs.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(weight)
    state = theirs.state_dict()
    found = _checkpoints.describe(state, _checkpoints.guess(state))
    expected = {key: TINY[key] for key in ("embed_dim", "depth", "num_heads", "window_size", "out_channels")}
    assert found.args == expected | {"head": None, "image_size": 64, "global_blocks": [1, 3]}
    network = SAM(0, **found.args).eval()
    network.load_state_dict(network.fitted(_checkpoints.read(state, "sam")))
    network.features_wanted, network.normalize = {"sam"}, torch.nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    expected = theirs.vision_encoder(images).last_hidden_state
    assert torch.allclose(network(images).features["sam"], expected, atol=1e-5)


def tsic_file(teacher, student):
    """A file of TSIC with both networks in it."""
    named = _checkpoints.write(student, "mmseg")
    prefixes = {"backbone": "Prompt_backbone", "decode_head": "Prompt_head", "auxiliary_head": "Prompt_auxiliary_head"}
    for key, value in named.items():
        head, _, rest = key.partition(".")
        named = named if head not in prefixes else named | {f"{prefixes[head]}.{rest}": value}
    return tsic.write(teacher) | {key: x for key, x in named.items() if key.startswith("Prompt_")}


def test_both_parts_of_a_tsic_file_there_and_back():
    torch.manual_seed(0)
    teacher = SAM(5, prompt_guidance="released", lora_rank=2, **TINY)
    student = DeepLabV3(5, stem="v1c", dilation_rule="mmseg", width=16)
    state = tsic_file(teacher.state_dict(), student.state_dict())
    assert "SAM.image_encoder.layers.3.attn.qkv.linear_b_v.weight" in state
    assert state["lora_SAM.sam.image_encoder.layers.0.ln1.bias"] is state["SAM.image_encoder.layers.0.ln1.bias"]
    assert _checkpoints.guess(state) == "tsic"
    for part, network in (("teacher", teacher), ("student", student)):
        own, ours = network.state_dict(), _checkpoints.read(state, "tsic", part)
        assert ours.keys() == own.keys() and all(torch.equal(ours[key], own[key]) for key in own)
        found = _checkpoints.describe(state, "tsic", part)
        assert found.num_classes == 5 and found.model == type(network).__name__.lower()
        described = type(network)(5, **(found.args | ({"taps": TINY["taps"]} if part == "teacher" else {})))
        assert {k: x.shape for k, x in described.state_dict().items()} == {k: x.shape for k, x in own.items()}
    assert _checkpoints.describe(state, "tsic", "teacher").args["lora_targets"] == ["q", "v"]
    alone = {key: x for key, x in state.items() if not key.startswith("Prompt_")}
    assert tsic.write(tsic.read(alone)).keys() == alone.keys()
    with pytest.raises(ValueError, match="holds no student"):
        _checkpoints.read(alone, "tsic", "student")


def test_networks_without_such_names():
    plain = SAM(5, **TINY)
    for state, layout, told in (
        (plain.state_dict(), "sam", "no names for classifier, head, neck"),
        (plain.state_dict(), "tsic", "this network has no mask_decoder.mask_tokens.weight"),
        (SAM(0, **(TINY | {"head": None, "lora_rank": 2})).state_dict(), "sam", "call merge_lora"),
        (SAM(5, prompt_guidance="released", lora_rank=2, lora_alpha=3.0, **TINY).state_dict(), "tsic", "no factor"),
        ({"backbone.conv1.weight": torch.zeros(1)}, "sam", "this network has another one"),
    ):
        with pytest.raises(ValueError, match=told):
            _checkpoints.write(state, layout)


def test_an_encoder_in_pieces():
    state = {key: x for key, x in published().items() if "blocks.3." not in key}
    with pytest.raises(ValueError, match="no whole image encoder of SAM: it has no entry .*blocks.3.attn.rel_pos_h"):
        _checkpoints.describe(state, "sam")
