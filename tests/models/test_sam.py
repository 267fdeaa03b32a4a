"""SAM as a teacher: sizes, what is trained, prompts, updates merged, files of other sizes and kinds taken in."""

import logging

import pytest
import torch
from torch import nn

from segkd.models import _checkpoints
from segkd.models._weights import fill
from segkd.models.sam import SAM

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "global_blocks": (0, 1, 2, 3), "window_size": 3,
        "out_channels": 16, "image_size": 64, "neck_width": 8, "head_width": 8}  # fmt: skip
HEIGHT, WIDTH = 65, 97
IMAGES = torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.manual_seed(0))
MASK = torch.randint(0, 5, (2, 1, HEIGHT, WIDTH), generator=torch.manual_seed(0))


def tiny(**args):
    """A small network none of whose tables and updates is zero, as they are at first."""
    torch.manual_seed(0)
    network = SAM(5, **(TINY | args))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "pos" in name or "linear_b" in name:
                nn.init.normal_(weight)
    return network


@torch.no_grad()
def test_features_and_how_they_follow_from_each_other():
    network = tiny(prompt_guidance="released").eval()
    assert list(network.channels) == [
        *(f"block{i}" for i in range(4)), *(f"neck{j}" for j in range(1, 5)), "sam",
        *(f"level{j}" for j in range(1, 5)), "decoder", "head", "masks",
    ]  # fmt: skip
    network.features_wanted = set(network.channels)
    features = network(IMAGES, MASK).features
    assert features["masks"].shape == (2, 3, 64, 96)
    assert torch.equal(features["sam"], features["neck4"])
    assert torch.equal(network.backbone.neck(features["block1"]), features["neck2"])


@torch.no_grad()
def test_without_a_head_features_only():
    network = tiny(head=None, taps=(1, 3)).eval()
    assert network.gives_logits is False and network(IMAGES).logits is None and network(IMAGES).features == {}
    network.features_wanted = {"neck1", "sam"}
    prediction = network(IMAGES)
    assert list(prediction.features) == ["neck1", "sam"]
    whole = tiny().eval()
    whole.backbone.load_state_dict(network.backbone.state_dict())
    whole.features_wanted = {"neck2", "neck4"}
    assert all(torch.equal(a, b) for a, b in zip(prediction.features.values(), whole(IMAGES).features.values()))
    network.features_wanted = {"head"}
    with pytest.raises(ValueError, match="SAM has no feature 'head'; it has: block1, block3, neck1, neck2, sam"):
        network(IMAGES)


@torch.no_grad()
def test_what_a_prompt_does(caplog):
    caplog.set_level(logging.INFO)
    base = tiny().eval()
    plain = base(IMAGES).logits
    for guidance in ("released", "channel", "spatial"):
        network = tiny(prompt_guidance=guidance).eval()
        fill(network, base.state_dict(), "the other", strict=False)
        first, second = network(IMAGES, MASK).logits, network(IMAGES, 4 - MASK).logits
        assert torch.equal(first, plain) == torch.equal(first, second) == (guidance == "released")
    assert [record.message for record in caplog.records if "no influence on scores" in record.message]


def test_released_masks_are_made_only_for_those_who_read_them():
    network = tiny(prompt_guidance="released").eval()
    network.mask_decoder.transformer = None
    network(IMAGES, MASK)
    network.features_wanted = {"masks"}
    with pytest.raises(TypeError):
        network(IMAGES, MASK)


@pytest.mark.parametrize(
    ("guidance", "prompt", "told"),
    [
        ("channel", None, "SAM: prompt_guidance channel needs a mask with the images; name .*prompted_by"),
        ("released", MASK[:, :, :64], r"must be a mask of \(2, 1, 65, 97\) for these images, got \(2, 1, 64, 97\)"),
    ],
)
def test_wrong_prompts(guidance, prompt, told):
    with pytest.raises(ValueError, match=told):
        tiny(prompt_guidance=guidance).eval()(IMAGES, prompt)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"taps": (1, 0, 2, 3)}, r"taps must be rising numbers of its 4 blocks, got \[1, 0, 2, 3\]"),
        ({"taps": (1, 2, 3, 4)}, "taps must be rising"),
        ({"taps": (2, 3)}, r"the head reads 4 tapped blocks, got \[2, 3\]"),
        ({"head": None, "prompt_guidance": "channel"}, "give head: uper or prompt_guidance: none"),
        ({"pretrained": True, "backbone_weights": "a.pth"}, "exclude each other"),
    ],
)
def test_impossible_arguments(args, told):
    with pytest.raises(ValueError, match=told):
        tiny(**args)


def test_merging_keeps_the_scores_and_leaves_a_plain_frozen_encoder():
    network = tiny(lora_rank=3, lora_alpha=2.0, lora_targets=("q", "k", "v")).eval()
    plain = tiny().eval()
    before = network(IMAGES).logits
    assert not torch.allclose(before, plain(IMAGES).logits, rtol=1e-2)
    expected = plain.fitted(network.state_dict())
    network.merge_lora()
    assert torch.allclose(network(IMAGES).logits, before, rtol=1e-4, atol=1e-4)
    assert network.state_dict().keys() == plain.state_dict().keys() and network.lora_rank == 0
    assert not any(weight.requires_grad for weight in network.backbone.parameters())
    fill(plain, expected, "the updated network")
    assert torch.allclose(plain(IMAGES).logits, before, rtol=1e-4, atol=1e-4)
    network.merge_lora()  # nothing more to merge


def test_a_published_file_starts_the_encoder_and_what_makes_masks(tmp_path):
    source = tiny(image_size=96, prompt_guidance="released")
    meta = _checkpoints.write(
        {
            key: x
            for key, x in source.state_dict().items()
            if key.startswith(("backbone", "prompt_encoder", "mask_dec"))
        },
        "sam",
    )
    torch.save(meta, tmp_path / "sam.pth")
    network = tiny(lora_rank=2, prompt_guidance="channel", backbone_weights=str(tmp_path / "sam.pth"))
    expected = network.fitted(source.state_dict())
    for name, value in network.state_dict().items():
        is_published = name.startswith(("backbone", "prompt_encoder", "mask_dec")) and "linear" not in name
        if is_published and not name.endswith((".pos_embed", "rel_pos_h", "rel_pos_w")):  # drawn anew by tiny
            assert torch.equal(value, expected[name]), name
    assert expected["backbone.pos_embed"].shape == (1, 4, 4, 32)

    torch.save({key: x for key, x in meta.items() if key.startswith("image_encoder.")}, tmp_path / "sam.pth")
    tiny(backbone_weights=str(tmp_path / "sam.pth"))
    with pytest.raises(ValueError, match="prompt_encoder in .*sam.pth does not fit this network"):
        tiny(prompt_guidance="channel", backbone_weights=str(tmp_path / "sam.pth"))


def test_weights_nobody_can_fetch(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(FileNotFoundError, match="facebook/sam-vit-base are not in the Hugging Face cache"):
        tiny(pretrained=True)


def test_published_counts():
    """TSIC's trained parameters by part at 5 classes; the encoder has 89.7 million frozen ones."""
    with torch.device("meta"):
        network = SAM(5, lora_rank=4)

    def trained(prefix):
        own = [w for name, w in network.named_parameters() if name.startswith(prefix) and w.requires_grad]
        return sum(weight.numel() for weight in own)

    assert trained("neck.") == 22_026_240
    assert trained(("head.", "classifier.")) == 32_258_565
    assert trained("backbone.") == 147_456
