"""mmsegmentation's own logits for given weights: the default arrangement of the heads is theirs, key by key."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from segkd.models._prediction import Normalize
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.deeplabv3plus import DeepLabV3Plus
from segkd.models.pspnet import PSPNet

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"

RENAMES = [
    (r"^backbone\.stem\.7\.", "backbone.bn1."),
    (r"^backbone\.stem\.", "backbone.conv1."),
    (r"^backbone\.conv1\.conv\.", "backbone.conv_stem."),
    (r"^backbone\.conv1\.bn\.", "backbone.bn1."),
    (r"^decode_head\.image_pool\.1\.", "aspp.image_pool.conv."),
    (r"^decode_head\.aspp_modules\.", "aspp.branches."),
    (r"^decode_head\.psp_modules\.(\d)\.1\.", r"pyramid.levels.\1.conv."),
    (r"^decode_head\.c1_bottleneck\.", "low_level."),
    (r"^decode_head\.sep_bottleneck\.", "decoder."),
    (r"^decode_head\.conv_seg\.", "classifier."),
    (r"^auxiliary_head\.convs\.0\.", "aux_head.conv."),
    (r"^auxiliary_head\.conv_seg\.", "aux_head.classifier."),
    (r"(depthwise|pointwise)_conv\.", r"\1."),
]


def our_key(key, context):
    block = re.match(r"backbone\.layer(\d)\.(\d)\.conv\.(\d)\.(conv|bn)\.(.*)", key)
    if block:  # MobileNetV2: the first layer has no expansion, the others begin with one
        layer, index, part, kind, rest = block.groups()
        names = ("conv_dw", "conv_pw") if layer == "1" else ("conv_pw", "conv_dw", "conv_pwl")
        name = names[int(part)] if kind == "conv" else f"bn{int(part) + 1}"
        return f"backbone.blocks.{int(layer) - 1}.{index}.{name}.{rest}"
    for pattern, ours in RENAMES:
        key = re.sub(pattern, ours, key)
    return key.replace("decode_head.bottleneck.", f"{context}.project.")


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
    spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
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
