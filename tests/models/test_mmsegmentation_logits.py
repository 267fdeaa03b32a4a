"""mmsegmentation's own logits for given weights: the default arrangement of the heads is theirs, key by key."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segkd.models._prediction import Normalize
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.deeplabv3plus import DeepLabV3Plus
from segkd.models.pspnet import PSPNet

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
KEYS = Path(__file__).parents[1] / "mmsegmentation_keys.py"


def loaded(file):
    """A Python file that lies outside the package."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not here")
@pytest.mark.parametrize(
    ("name", "network", "context", "args"),
    [
        ("parity_deeplabv3_r18_d8_19", DeepLabV3, "aspp", {"stem": "v1c"}),
        ("parity_pspnet_r18_d8_21", PSPNet, "pyramid", {"stem": "v1c"}),
        ("parity_deeplabv3plus_mbv2_d8_19", DeepLabV3Plus, "aspp", {"backbone": "mobilenetv2_100", "width": 512}),
    ],
)
def test_logits(name, network, context, args):
    fill, our_key = loaded(GOLDEN / "fill.py"), loaded(KEYS).our_key
    case = next(c for c in json.loads((GOLDEN / "mmseg/parity.json").read_text()) if c["case"] == name)
    expected = np.load(GOLDEN / f"mmseg/{name}.npz")["expected:logits"]

    net = network(expected.shape[1], dilation_rule="mmseg", **args)
    state = fill.fill_state(case["entries"])
    net.load_state_dict({our_key(key, context): torch.from_numpy(value) for key, value in state.items()})
    net.normalize = Normalize.named("none")
    net.eval().double()
    with torch.no_grad():
        logits = net(torch.from_numpy(fill.fill_input(case["input_shape"])).double()).logits
    assert np.abs(logits.numpy() - expected).max() < 1e-6 * expected.std()
