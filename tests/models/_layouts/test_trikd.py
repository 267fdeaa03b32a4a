"""TriKD's checkpoints: read and written entry by entry, and the original's numbers for given weights."""

import functools

import pytest
import torch

from segkd.models import _weights
from segkd.models._layouts import trikd
from segkd.models.trikd_deit import TriKDDeiT
from segkd.models.trikd_resnet import TriKDResNet
from segkd.models.trikd_tinyvit import TriKDTinyViT
from segkd.runner.recipe import parts

WIDTHS = (4, 6, 8, 10)

tinyvit = functools.partial(TriKDTinyViT, variant="5m", widths=WIDTHS)
heads = functools.partial(tinyvit, distill_heads=True)
resnet = functools.partial(TriKDResNet, backbone="resnet50", widths=WIDTHS)
deit = functools.partial(TriKDDeiT, variant="tiny", image_size=(64, 64), neck_width=12, widths=WIDTHS)


def small(view, **args):
    torch.manual_seed(0)
    return view(5, **args)


@pytest.mark.parametrize("view", [heads, resnet, deit])
def test_layout_round_trip(view, images):
    net = small(view)
    ours = net.state_dict()
    theirs = trikd.write(ours)
    assert trikd.fits(theirs) and not trikd.fits(ours)
    back = trikd.read(theirs)
    assert list(back) == list(ours) and all(back[key] is ours[key] for key in ours)
    described = trikd.describe(theirs)
    other = parts.build("models", described.model, described.args, described.num_classes)
    _weights.fill(other, back, "the file")
    assert torch.equal(other.eval()(images(1)).logits, net.eval()(images(1)).logits)


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


@pytest.mark.parametrize("kind", ["original", "timm", "deit", "resnet"])
def test_a_backbone_starts_from_an_imagenet_file(tmp_path, kind):
    """TinyViT's own names and timm's; DeiT's with a distillation token; beside each what no encoder has."""
    view = {"deit": deit, "resnet": resnet}.get(kind, tinyvit)
    source = small(view).backbone.state_dict()
    state, more = dict(source), torch.ones(1)
    if kind == "original":
        state = trikd.IMAGENET.to_theirs(source) | {"layers.1.blocks.0.attn.attention_bias_idxs": more}
        assert "layers.0.downsample.conv1.c.weight" in state and "patch_embed.seq.2.bn.bias" in state
    if kind == "deit":
        rows = source["pos_embed"]
        state["pos_embed"] = torch.cat([rows[:, :1], torch.ones(1, 1, 192), rows[:, 1:]], 1)
        state |= {"dist_token": more, "norm.bias": more, "head_dist.bias": more}
    torch.save({"model": state | {"fc.bias" if kind == "resnet" else "head.bias": more}}, tmp_path / "weights.pth")
    torch.manual_seed(1)
    net = view(5, backbone_weights=str(tmp_path / "weights.pth"))
    assert all(torch.equal(tensor, source[key]) for key, tensor in net.backbone.state_dict().items())
    if view is tinyvit:
        wider = tinyvit(5, windows=(8, 7, 7), backbone_weights=str(tmp_path / "weights.pth"))
        assert wider.backbone.stages[1].blocks[0].attn.attention_biases.shape == (4, 64)
