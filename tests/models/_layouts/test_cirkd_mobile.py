"""CIRKD's files of networks on MobileNetV3 and MobileViT: their logits, every size there and back, ImageNet files."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segkd.models._backbones import build_backbone
from segkd.models._checkpoints import describe, guess, read, read_backbone, write
from segkd.models._layouts import _cirkd_mobile
from segkd.models._prediction import Normalize
from segkd.models._weights import fill
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.pspnet import PSPNet

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
NETWORKS = {"deeplabv3": DeepLabV3, "pspnet": PSPNet}
NAMES = ["mobilenetv3_small_100", "mobilenetv3_large_100", "mobilevit_xxs", "mobilevit_xs", "mobilevit_s"]


def built(state):
    """The network a file of theirs describes, filled with it."""
    found = describe(state, guess(state))
    net = NETWORKS[found.model](found.num_classes, **found.args)
    fill(net, read(state, "cirkd"), "the case")
    return net


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not here")
@pytest.mark.parametrize("name", [
    "parity_deeplabv3_mobilenetv3_small", "parity_psp_mobilenetv3_large", "parity_deeplab_mobile_mobilevit_xxs",
])  # fmt: skip
def test_logits_and_feature(name):
    spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
    values = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(values)
    case = next(c for c in json.loads((GOLDEN / "cirkd/parity.json").read_text()) if c["case"] == name)
    arrays = np.load(GOLDEN / f"cirkd/{name}.npz")
    state = {key: torch.from_numpy(value) for key, value in values.fill_state(case["entries"]).items()}

    net = built(state).eval().double()
    net.normalize, net.features_wanted = Normalize.named("none"), {"head"}
    with torch.no_grad():
        prediction = net(torch.from_numpy(values.fill_input(case["input_shape"])).double())
    steps = {"logits": [1, case["logits_step"], case["logits_step"]], "feature_sub": case["feature_step"]}
    for output, ours in (("logits", prediction.logits), ("feature_sub", prediction.features["head"])):
        channel, row, column = steps[output]
        expected = arrays[f"expected:{output}"]
        # the stored numbers were computed in float32: 2e-5 is what that costs
        assert np.abs(ours.numpy()[:, ::channel, ::row, ::column] - expected).max() < 3e-5 * expected.std()

    back = write(net.float().state_dict(), "cirkd")
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("model", ["deeplabv3", "pspnet"])
@pytest.mark.parametrize("backbone", NAMES)
def test_every_size_there_and_back(backbone, model):
    level = {"level_width": build_backbone(backbone, 8).channels["stage4"] // 4} if model == "pspnet" else {}
    net = NETWORKS[model](7, backbone=backbone, aux=False, **({"projection": "1x1"} if not level else level))
    ours = net.state_dict()
    theirs = write(ours, "cirkd")
    assert guess(theirs) == "cirkd" and not theirs.keys() & ours.keys()
    found = describe(theirs, "cirkd")
    assert (found.model, found.num_classes, found.args["backbone"]) == (model, 7, backbone)
    assert (found.args["dilation_rule"], found.args["output_stride"], found.args["aux"]) == ("cirkd", 8, False)
    again = built(theirs).state_dict()
    assert again.keys() == ours.keys() and all(torch.equal(again[key], ours[key]) for key in ours)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("name", NAMES)
def test_imagenet_files(name, prefix):
    """As OpenMMLab's classifiers write them: other names of the attention, and a classifier."""
    backbone = build_backbone(name, 8, dilation_rule="cirkd")
    ours = backbone.state_dict()
    table = _cirkd_mobile.Renaming(_cirkd_mobile.pairs(name, prefix, ""))
    file = {
        key.replace("attn.attn.in_proj_", "attn.qkv.").replace("attn.attn.out_proj", "attn.proj"): value
        for key, value in table.to_theirs(ours).items()
    }
    found = read_backbone(file | {"head.fc.weight": torch.zeros(9, 3)})
    assert found.keys() == ours.keys() and all(found[key] is value for key, value in ours.items())
    assert (
        _cirkd_mobile.imagenet({"decode_head.conv_seg.weight": torch.zeros(1), "layer4.0.conv1.weight": ours}) is None
    )
    assert _cirkd_mobile.backbone_name(file) is None
    if prefix:  # a whole network of mmsegmentation's is no ImageNet file
        assert _cirkd_mobile.imagenet(file | {"decode_head.conv_seg.weight": torch.zeros(1)}) is None
