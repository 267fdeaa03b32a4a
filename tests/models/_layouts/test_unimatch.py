"""Files of UniMatch: the original's own logits, both directions, and what has no place in such a file."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segkd.models._checkpoints import guess
from segkd.models._layouts import unimatch
from segkd.models._prediction import Normalize
from segkd.models._weights import fill
from segkd.models.deeplabv3plus import DeepLabV3Plus

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"


def network(backbone="resnet50", **args):
    torch.manual_seed(0)
    return DeepLabV3Plus(19, **{"arrangement": "unimatch", "backbone": backbone, "stem": "v1s"} | args)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not here")
def test_original_logits():
    spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    cases = json.loads((GOLDEN / "trikd/parity.json").read_text())
    case = next(case for case in cases if case["case"] == "parity_deeplabv3plus_resnet50")
    expected = np.load(GOLDEN / "trikd/parity_deeplabv3plus_resnet50.npz")["expected:logits"]
    state = {key: torch.from_numpy(value) for key, value in rule.fill_state(case["entries"]).items()}

    assert guess(state) == "unimatch"
    described = unimatch.describe(state)
    assert (described.model, described.num_classes) == ("deeplabv3plus", 21)
    net = DeepLabV3Plus(described.num_classes, **described.args)
    fill(net, unimatch.read(state), "the case")
    written = unimatch.write(net.state_dict())
    assert written.keys() == state.keys() and all(torch.equal(written[key], state[key]) for key in state)
    net.normalize = Normalize.named("none")
    x = torch.from_numpy(rule.fill_input(case["input_shape"]))
    with torch.no_grad():
        logits = net.eval()(x).resized(x.shape[-2:])[..., ::2, ::2].numpy()
    assert np.abs(logits - expected).max() < 2e-5 * expected.std()  # both in float32


def test_round_trip():
    ours = network().state_dict()
    theirs = unimatch.write(ours)
    assert guess(theirs) == "unimatch" and not unimatch.fits(ours)
    back = unimatch.read(theirs)
    assert back.keys() == ours.keys() and all(torch.equal(back[key], ours[key]) for key in ours)
    # their decoder reads the 48 channels first
    assert torch.equal(theirs["fuse.0.weight"][:, :48], ours["decoder.0.conv.weight"][:, 256:])


def test_resnet101():
    with torch.device("meta"):
        theirs = unimatch.write(network("resnet101").state_dict())
    assert unimatch.describe(theirs).args["backbone"] == "resnet101"


def test_xception():
    with torch.device("meta"):
        ours = network("xception65", stem="plain").state_dict()
        theirs = unimatch.write(ours)
    assert unimatch.read(theirs).keys() == ours.keys()
    described = unimatch.describe(theirs)
    assert described.args == {
        "arrangement": "unimatch",
        "backbone": "xception65",
        "output_stride": 16,
        "dilation_rule": "timm",
    }
    names = {key for key in theirs if key.startswith("backbone.") and key.endswith("weight")}
    assert "backbone.block20.skipbn.weight" in names and "backbone.block1.sepconv3.pointwise.weight" in names
    assert not any("blocks" in name for name in names)


def test_imagenet_file_of_xception():
    with torch.device("meta"):
        net = network("xception65", stem="plain")
        written = unimatch.write(net.state_dict())
        theirs = {key.removeprefix("backbone."): value for key, value in written.items() if key.startswith("backbone.")}
    more = {"itr": torch.zeros(1), "fc.weight": torch.zeros(1000, 2048)}
    backbone = unimatch.backbone(theirs | more)
    own = net.backbone.state_dict()
    assert backbone.keys() == {key for key in own if not key.endswith("num_batches_tracked")}
    assert all(backbone[key].shape == own[key].shape for key in backbone)
    assert unimatch.backbone({"conv1.weight": torch.zeros(1)}) is None


@pytest.mark.parametrize(
    "args", [{"aux": True}, {"separable": True}, {"backbone": "resnet18"}, {"stem": "v1c"}, {"stem": "plain"}]
)
def test_other_networks_have_no_such_file(args):
    with torch.device("meta"):
        net = network(**args)
    with pytest.raises(ValueError, match="layout unimatch has keys for DeepLabV3.* alone"):
        unimatch.write(net.state_dict())


def test_unknown_backbone():
    with pytest.raises(ValueError, match="ResNet or Xception-65 backbone only"):
        unimatch.describe({"classifier.weight": torch.zeros(2, 256, 1, 1)})
