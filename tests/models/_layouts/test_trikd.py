"""TriKD's checkpoints: read and written entry by entry, and the original's numbers for given weights."""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segkd.models import _weights
from segkd.models._layouts import trikd
from segkd.models._prediction import Normalize
from segkd.models.trikd_deit import TriKDDeiT
from segkd.models.trikd_resnet import TriKDResNet
from segkd.models.trikd_tinyvit import TriKDTinyViT
from segkd.runner.recipe import parts

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
WIDTHS = (4, 6, 8, 10)

tinyvit = functools.partial(TriKDTinyViT, variant="5m", widths=WIDTHS)
heads = functools.partial(tinyvit, distill_heads=True)
resnet = functools.partial(TriKDResNet, backbone="resnet50", widths=WIDTHS)
deit = functools.partial(TriKDDeiT, variant="tiny", image_size=(64, 64), neck_width=12, widths=WIDTHS)


def small(view, **args):
    torch.manual_seed(0)
    return view(5, **args)


def images():
    return torch.randint(256, (1, 3, 65, 97), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("view", [heads, resnet, deit])
def test_layout_round_trip(view):
    net = small(view)
    ours = net.state_dict()
    theirs = trikd.write(ours)
    assert trikd.fits(theirs) and not trikd.fits(ours)
    back = trikd.read(theirs)
    assert list(back) == list(ours) and all(back[key] is ours[key] for key in ours)
    described = trikd.describe(theirs)
    other = parts.build("models", described.model, described.args, described.num_classes)
    _weights.fill(other, back, "the file")
    assert torch.equal(other.eval()(images()).logits, net.eval()(images()).logits)


def test_layout_errors():
    with pytest.raises(ValueError, match="distill_heads: true"):
        trikd.write(small(tinyvit).state_dict())
    with pytest.raises(ValueError, match="trikd_tinyvit, trikd_resnet and trikd_deit alone"):
        trikd.write({"classifier.weight": torch.zeros(1)})
    state = trikd.write(small(deit).state_dict())
    with pytest.raises(ValueError, match="no DeiT of TriKD has 16 positions of 192 channels"):
        trikd.describe(state | {"encoder.pos_embed": state["encoder.pos_embed"][:, 1:]})
    with pytest.raises(ValueError, match="neither a TinyViT, a ResNet of bottlenecks nor a DeiT"):
        trikd.describe({key: value for key, value in state.items() if key != "encoder.pos_embed"})
    with pytest.raises(ValueError, match="20 and 160 channels wide"):
        trikd.describe(trikd.write(small(heads).state_dict()) | {"encoder.patch_embed.seq.2.bn.weight": torch.ones(20)})


def test_imagenet_files():
    tiny, vit, cnn = (small(view).backbone for view in (tinyvit, deit, resnet))
    file = trikd.IMAGENET.to_theirs(tiny.state_dict()) | {"head.weight": torch.ones(1), "norm_head.bias": torch.ones(1)}
    file["layers.1.blocks.0.attn.attention_bias_idxs"] = torch.ones(1)
    assert "layers.0.downsample.conv1.c.weight" in file and "patch_embed.seq.2.bn.bias" in file
    for state in (file, tiny.state_dict() | {"head.fc.weight": torch.ones(1)}):
        assert trikd.backbone(state).keys() == tiny.state_dict().keys()
    state = vit.state_dict()
    rows = torch.cat([state["pos_embed"][:, :1], torch.ones(1, 1, 192), state["pos_embed"][:, 1:]], 1)
    found = trikd.backbone(state | {"pos_embed": rows, "dist_token": rows, "norm.bias": rows, "head_dist.bias": rows})
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    assert trikd.backbone(cnn.state_dict() | {"fc.bias": torch.ones(1)}).keys() == cnn.state_dict().keys()
    assert trikd.backbone({"conv1.weight": torch.ones(1)}) is None


@pytest.mark.parametrize("kind", ["original", "timm"])
def test_a_backbone_starts_from_a_file(tmp_path, kind):
    source = small(tinyvit).backbone.state_dict()
    state = trikd.IMAGENET.to_theirs(source) if kind == "original" else source
    torch.save({"model": state | {"head.bias": torch.ones(1)}}, tmp_path / "weights.pth")
    torch.manual_seed(1)
    net = tinyvit(5, backbone_weights=str(tmp_path / "weights.pth"))
    assert all(torch.equal(tensor, source[key]) for key, tensor in net.backbone.state_dict().items())
    wider = tinyvit(5, windows=(8, 7, 7), backbone_weights=str(tmp_path / "weights.pth"))
    assert wider.backbone.stages[1].blocks[0].attn.attention_biases.shape == (4, 64)


@functools.cache
def golden_fill():
    spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not here")
@pytest.mark.parametrize("name", ["tiny11m_224"])
def test_original_numbers(name):
    fill = golden_fill()
    case = next(c for c in json.loads((GOLDEN / "trikd/parity.json").read_text()) if c["case"].endswith(name))
    state = {key: torch.from_numpy(value) for key, value in fill.fill_state(case["entries"]).items()}
    described = trikd.describe(state)
    net = parts.build("models", described.model, described.args, described.num_classes)
    net.load_state_dict(trikd.read(state))
    assert trikd.write(net.state_dict()).keys() == state.keys()
    net.normalize = Normalize.named("none")
    net.eval()
    net.features_wanted = {"low", "attention"} & net.channels.keys()
    x = torch.from_numpy(fill.fill_input(case["input_shape"]))
    with torch.no_grad():
        prediction = net(x)
    features = prediction.features
    found = {"logits": prediction.resized(x.shape[-2:]), "low": features.get("low"), "attn": features.get("attention")}
    for key, expected in np.load(GOLDEN / f"trikd/{case['case']}.npz").items():
        ours = found[key.removeprefix("expected:")].numpy()
        step = -(-ours.shape[-1] // expected.shape[-1])
        assert np.abs(ours[:, :, ::step, ::step] - expected).max() < 1e-4 * expected.std(), key
