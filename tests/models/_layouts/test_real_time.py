"""What PIDNet's, DDRNet's and STDC's files hold in another form than our networks, and their ImageNet files."""

import logging

import pytest
import torch

from segkd.models import _checkpoints
from segkd.models._layouts import _stdc
from segkd.models._weights import fill
from segkd.models.ddrnet import DDRNet
from segkd.models.pidnet import PIDNet
from segkd.models.stdc import STDC

SMALL = {"pidnet": (PIDNet, {"width": 4}), "ddrnet": (DDRNet, {"width": 4, "pyramid_width": 4, "head_width": 4})}


@torch.no_grad()
def seen(network):
    """The network after it has seen data: norms at their start hide what is swapped or left out."""
    generator = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network.eval()


@pytest.mark.parametrize("model", SMALL)
def test_mmsegmentation_has_the_stems_bias_in_its_norm(model, images):
    kind, args = SMALL[model]
    ours = seen(kind(3, **args))
    theirs = _checkpoints.write(ours.state_dict(), "mmseg")
    found = _checkpoints.describe(theirs, "mmseg")
    assert found.model == model and found.args["stem_bias"] is False
    there = kind(3, **found.args).eval()
    fill(there, _checkpoints.read(theirs, "mmseg"), "theirs")
    with torch.no_grad():
        one, two = (network(images(1)).logits for network in (ours, there))
    assert (one - two).abs().max() < 1e-4 * one.std()
    # and back: the authors' code has a bias, of 0
    back = _checkpoints.write(there.state_dict(), model)
    assert not back["conv1.0.bias"].any() and not back["conv1.3.bias"].any()


def test_files_of_a_training_hold_more_than_the_network(same):
    ours = PIDNet(3, width=4).state_dict()
    theirs = _checkpoints.write(ours, "pidnet")
    file = {f"model.{key}": value for key, value in theirs.items()} | {"sem_loss.criterion.weight": torch.ones(3)}
    assert _checkpoints.guess(file) == "pidnet" and same(_checkpoints.read(file, "pidnet"), ours)
    odd = {key: value for key, value in theirs.items()}
    odd |= {
        key.replace("layer1.1.", f"layer1.{i}."): theirs[key] for i in (2, 3) for key in theirs if "layer1.1." in key
    }
    with pytest.raises(ValueError, match="this PIDNet has 4 blocks at stride 4; ours are S and M with 2 and L with 3"):
        _checkpoints.describe(odd, "pidnet")


@pytest.mark.parametrize("model", SMALL)
def test_imagenet_files_lack_what_joins_the_branches(model, tmp_path, caplog, same):
    kind, args = SMALL[model]
    state = kind(3, **args, aux=False).state_dict()
    joins = ("spp.", "pag", "dfm.", "diff", "compression", "final_layer.")
    theirs = _checkpoints.write(state, model)
    file = {key: value for key, value in theirs.items() if not key.startswith(joins)}
    file |= {"down5.0.weight": torch.ones(1), "linear.weight": torch.ones(10, 4), "last_layer.1.bias": torch.ones(1)}
    torch.save({"state_dict": {f"module.{key}": value for key, value in file.items()}}, tmp_path / "imagenet.pth")
    with caplog.at_level(logging.WARNING):
        network = kind(3, **args, backbone_weights=str(tmp_path / "imagenet.pth"))
    assert "entries, which start at random: " in caplog.text
    read = network.state_dict()
    for part in ("stem.0.conv.weight", "layer2.1.conv2.bn.bias"):
        assert torch.equal(read[f"backbone.{part}"], state[f"backbone.{part}"])
    assert not torch.equal(
        read["backbone.pyramid.shortcut.conv.weight"], state["backbone.pyramid.shortcut.conv.weight"]
    )
    del file["layer3_.0.conv2.weight"]
    torch.save(file, tmp_path / "imagenet.pth")
    with pytest.raises(ValueError, match="does not fit this network: 1 missing: "):
        kind(3, **args, backbone_weights=str(tmp_path / "imagenet.pth"))


def test_stdcs_file_holds_the_encoder_twice_and_scales_of_its_own(same):
    ours = seen(STDC(3, variant=2, width=4)).state_dict()
    theirs = _checkpoints.write(ours, "stdc")
    assert _checkpoints.guess(theirs) == "stdc"
    assert theirs["cp.backbone.x32.0.11.avd_layer.0.weight"] is theirs["cp.backbone.features.11.avd_layer.0.weight"]
    assert not theirs["cp.backbone.linear.weight"].any() and theirs["conv_out_sp2.conv.conv.weight"].shape == (
        4,
        2,
        3,
        3,
    )
    assert "cp.backbone.features.0.bn.num_batches_tracked" in theirs
    assert not any(key.endswith("num_batches_tracked") for key in theirs if not key.startswith("cp.backbone."))
    scale = "cp.arm16.bn_atten.weight"
    torch.testing.assert_close(theirs[scale], ours["arm16.gate.bn.weight"] - 1e-5, rtol=0, atol=0)

    found = _checkpoints.describe(theirs, "stdc")
    assert found.args["variant"] == 2 and found.args["detail_channels"] == 1 and not found.args["classifier_bias"]
    theirs[scale] = -theirs[scale]  # their norm takes its magnitude
    read = _checkpoints.read(theirs, "stdc")
    assert read.keys() == {key for key in ours if key in read or not key.endswith("num_batches_tracked")}
    for key, value in read.items():
        torch.testing.assert_close(value, ours[key], rtol=1e-6, atol=0)
    ours["refine16.bn.weight"][2] = -0.5
    with pytest.raises(ValueError, match=r"cp.conv_head16.bn.weight has a smaller scale, or a negative one"):
        _checkpoints.write(ours, "stdc")


def test_mmsegmentations_stdc_has_biases_and_two_channels_of_details(images):
    ours = seen(STDC(3, width=4))
    theirs = _checkpoints.write(ours.state_dict(), "mmseg")
    found = _checkpoints.describe(theirs, "mmseg")
    assert (found.args["classifier_bias"], found.args["detail_channels"]) == (True, 2)
    there = STDC(3, **found.args).eval()
    fill(there, _checkpoints.read(theirs, "mmseg"), "theirs")
    predictions = []
    for network in (ours, there):
        network.features_wanted = {"aux16", "aux32", "detail"}
        with torch.no_grad():
            predictions.append(network(images(1)))
    one, two = predictions
    for here, map in (
        (one.logits, two.logits),
        *((one.features[name], two.features[name]) for name in ("aux16", "aux32")),
    ):
        torch.testing.assert_close(here, map)
    detail = one.features["detail"].sigmoid()
    torch.testing.assert_close(two.features["detail"].sigmoid(), torch.cat([1 - detail, detail], dim=1))
    with pytest.raises(ValueError, match="the layout stdc has classifiers without a bias, and one channel of details"):
        _checkpoints.write(there.state_dict(), "stdc")


def test_stdcs_imagenet_file(tmp_path, same):
    state = seen(STDC(3, width=4)).state_dict()
    theirs = _checkpoints.write(state, "stdc")
    file = {k.removeprefix("cp.backbone."): x for k, x in theirs.items() if k.startswith("cp.backbone.")}
    torch.save({"state_dict": file}, tmp_path / "imagenet.pth")
    read = STDC(5, width=4, backbone_weights=str(tmp_path / "imagenet.pth")).backbone.state_dict()
    assert same(read, {k.removeprefix("backbone."): x for k, x in state.items() if k.startswith("backbone.")})
    assert _stdc.backbone({"conv1.weight": torch.ones(1)}) is None
    with pytest.raises(ValueError, match="has 1 blocks; STDC1 has 6 and STDC2 12"):
        _stdc.backbone({"features.2.conv_list.0.conv.weight": torch.ones(1)})
