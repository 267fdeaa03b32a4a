"""SegFormer's entries in four codes: recorded logits, transformers' network, both ways."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import SegformerConfig, SegformerForImageClassification, SegformerForSemanticSegmentation

from segkd.models._checkpoints import describe, guess, read, read_backbone, write
from segkd.models._layouts import _segformer, mmseg
from segkd.models._prediction import Normalize
from segkd.models.segformer import SegFormer
from segkd.models.upernet import UPerNet

# arguments of the networks each code has
OWN = {"cirkd": {"fuse_bias": True}, "mmseg": {"branches": "conv"}, "huggingface": {}, "nvidia": {}}


def built(layout, num_classes=5, **args):
    torch.manual_seed(0)
    return SegFormer(num_classes, **(OWN[layout] | {"width": 16} | args)).eval()


def from_transformers(tmp_path, **sizes):
    """A network of transformers with weights large enough to matter, and the file it saves."""
    torch.manual_seed(0)
    theirs = SegformerForSemanticSegmentation(SegformerConfig(num_labels=7, **sizes))
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    return theirs.double().eval(), load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("backbone", "sizes"),
    [
        ("mit_b0", {}),
        ("mit_b2", {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 24}),
    ],
)
def test_network_of_transformers(backbone, sizes, tmp_path, same):
    theirs, state = from_transformers(tmp_path, **sizes)
    assert guess(state) == "huggingface"
    found = describe(state, "huggingface")
    width = sizes.get("decoder_hidden_size", 256)
    assert found.num_classes == 7 and found.args["backbone"] == backbone and found.args["width"] == width
    network = SegFormer(7, **found.args).double().eval()
    network.load_state_dict(read(state, "huggingface"))
    network.normalize = Normalize.named("none")
    network.features_wanted = set(network.channels)
    x = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        expected, prediction = theirs(x, output_hidden_states=True), network(x)
    assert (prediction.logits - expected.logits).abs().max() < 1e-12 * expected.logits.std()
    for number, stage in enumerate(expected.hidden_states, start=1):
        assert (prediction.features[f"stage{number}"] - stage).abs().max() < 1e-12 * stage.std()
    assert same(write(read(state, "huggingface"), "huggingface"), state)


def test_transformers_reads_what_is_written(tmp_path):
    """The way back: our weights in a folder of theirs give our logits."""
    network = built("huggingface", norm_eps=1e-5).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs = SegformerForSemanticSegmentation(SegformerConfig(num_labels=5, decoder_hidden_size=16))
    theirs.save_pretrained(tmp_path)
    torch.save(write(network.state_dict(), "huggingface"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    theirs = SegformerForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.float64).eval()
    network.normalize = Normalize.named("none")
    x = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        ours, found = network(x).logits, theirs(x).logits
    assert (ours - found).abs().max() < 1e-12 * ours.std()


@pytest.mark.parametrize("backbone", ["mit_b0", "mit_b2"])
@pytest.mark.parametrize("layout", list(OWN))
def test_both_ways_and_described(layout, backbone, same):
    state = built(layout, backbone=backbone).state_dict()
    theirs = write(state, layout)
    assert not theirs.keys() & state.keys()
    assert guess(theirs) == layout
    assert same(read(theirs, layout), state)
    assert same(write(read(theirs, layout), layout), theirs)
    found = describe(theirs, layout)
    assert (found.model, found.num_classes) == ("segformer", 5)
    with torch.device("meta"):
        again = SegFormer(found.num_classes, **found.args)
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }
    eps = {"cirkd": (1e-6, 1e-5), "mmseg": (1e-6, 1e-6), "huggingface": (1e-5, 1e-5), "nvidia": (1e-6, 1e-5)}[layout]
    assert (found.args["norm_eps"], found.args["reduction_eps"]) == eps


def test_mmsegmentation_stores_attention_as_torch_does():
    network = built("mmseg").double()
    state = write(network.state_dict(), "mmseg")
    attention = network.backbone.stages[3].blocks[1].attention  # no reduction in the last stage
    prefix = "backbone.layers.3.1.1.attn.attn."
    theirs = torch.nn.MultiheadAttention(256, 8, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    tokens = torch.randn(2, 12, 256, dtype=torch.float64)
    expected = theirs(tokens, tokens, tokens)[0]
    assert (attention(tokens, (3, 4)) - expected).abs().max() < 1e-12 * expected.std()


def test_entries_of_mmsegmentation():
    """Names and shapes as its SegFormer with MiT-B0 has them."""
    state = write(built("mmseg", width=256, num_classes=19).state_dict(), "mmseg")
    shapes = {
        "backbone.layers.0.0.projection.weight": (32, 3, 7, 7),
        "backbone.layers.1.0.norm.bias": (64,),
        "backbone.layers.0.1.1.attn.attn.in_proj_weight": (96, 32),
        "backbone.layers.0.1.1.attn.attn.in_proj_bias": (96,),
        "backbone.layers.0.1.1.attn.attn.out_proj.weight": (32, 32),
        "backbone.layers.2.1.0.attn.sr.weight": (160, 160, 2, 2),
        "backbone.layers.2.1.0.attn.norm.weight": (160,),
        "backbone.layers.3.1.0.ffn.layers.0.weight": (1024, 256, 1, 1),
        "backbone.layers.3.1.0.ffn.layers.1.weight": (1024, 1, 3, 3),
        "backbone.layers.3.1.0.ffn.layers.4.weight": (256, 1024, 1, 1),
        "backbone.layers.3.2.weight": (256,),
        "decode_head.convs.3.conv.weight": (256, 256, 1, 1),
        "decode_head.convs.0.bn.running_mean": (256,),
        "decode_head.fusion_conv.conv.weight": (256, 1024, 1, 1),
        "decode_head.conv_seg.weight": (19, 256, 1, 1),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    places = ("attn.q.", "attn.kv.", "decode_head.fusion_conv.conv.bias")
    assert not any(place in key for key in state for place in places)


def test_entries_of_the_papers_code(same):
    """Names as transformers' own conversion of its files reads them, and the classifier that is never read."""
    network = built("nvidia", width=256, num_classes=19)
    state = write(network.state_dict(), "nvidia")
    shapes = {
        "backbone.patch_embed1.proj.weight": (32, 3, 7, 7),
        "backbone.block1.1.attn.kv.weight": (64, 32),
        "backbone.block3.0.attn.sr.weight": (160, 160, 2, 2),
        "backbone.block4.1.mlp.dwconv.dwconv.weight": (1024, 1, 3, 3),
        "backbone.norm4.bias": (256,),
        "decode_head.linear_c4.proj.weight": (256, 256),
        "decode_head.linear_c1.proj.weight": (256, 32),
        "decode_head.linear_fuse.conv.weight": (256, 1024, 1, 1),
        "decode_head.linear_fuse.bn.running_mean": (256,),
        "decode_head.linear_pred.weight": (19, 256, 1, 1),
        "decode_head.conv_seg.weight": (19, 128, 1, 1),
        "decode_head.conv_seg.bias": (19,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert "decode_head.linear_fuse.conv.bias" not in state
    drawn = state | {"decode_head.conv_seg.weight": torch.randn(19, 128, 1, 1)}
    assert guess(drawn) == "nvidia" and not mmseg.fits(drawn)
    assert same(read(drawn, "nvidia"), network.state_dict())
    # stage4 comes first in their concatenation
    fuse = network.decoder.fuse.weight
    assert torch.equal(state["decode_head.linear_fuse.conv.weight"][:, :256], fuse[:, 768:])


@pytest.mark.parametrize("code", list(OWN))
def test_imagenet_files(code, tmp_path, same):
    network = built(code)
    if code == "huggingface":
        SegformerForImageClassification(SegformerConfig(num_labels=3)).save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        assert "classifier.weight" in state
    else:
        prefix = getattr(_segformer, code.upper()).prefix
        encoder = ("patch_embed", "block", "norm", "backbone.")
        state = {
            key.removeprefix(prefix): value
            for key, value in write(network.state_dict(), code).items()
            if key.startswith(encoder)
        }
        state |= {"head.weight": torch.zeros(3, 256), "head.bias": torch.zeros(3)}
    found = read_backbone(state)
    assert found.keys() == network.backbone.state_dict().keys()
    network.backbone.load_state_dict(found)
    if code != "huggingface":
        assert same(found, built(code).backbone.state_dict())


def test_pretrained_comes_from_the_hub(tmp_path, monkeypatch, same):
    SegformerForImageClassification(SegformerConfig(num_labels=3)).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, file: str(tmp_path / file))
    network = SegFormer(5, pretrained=True)
    assert same(network.backbone.state_dict(), read_backbone(state))
    other = UPerNet(5, backbone="mit_b0", width=8, pretrained=True)
    assert same(other.backbone.state_dict(), read_backbone(state))
    with pytest.raises(ValueError, match="exclude each other"):
        SegFormer(5, pretrained=True, backbone_weights="mit_b0.pth")

    def no_connection(repository, file):
        raise OSError(f"{repository} is out of reach")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_connection)
    with pytest.raises(
        FileNotFoundError, match="weights nvidia/mit-b1 are not in the Hugging Face cache and could not"
    ):
        SegFormer(5, backbone="mit_b1", pretrained=True)


def test_errors():
    state = built("huggingface").state_dict()
    for wrong, layout, told in (
        (state, "mmseg", "layout mmseg has no entries for a SegFormer with branches: linear and fuse_"),
        (state, "cirkd", "fuse_bias: false; mmseg takes conv and false, cirkd linear and true"),
        ({"classifier.weight": torch.zeros(1)}, "huggingface", "layout huggingface has entries for SegFormer only"),
    ):
        with pytest.raises(ValueError, match=told):
            write(wrong, layout)
    odd = {key: value for key, value in write(state, "huggingface").items() if ".block.2.1." not in key}
    told = r"has \(32, 64, 160, 256\) channels and \(2, 2, 1, 2\) blocks; ours are mit_b0"
    with pytest.raises(ValueError, match=told):
        describe(odd, "huggingface")
