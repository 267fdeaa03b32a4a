"""Scores and maps of mmsegmentation, CIRKD, DIST and TSIC's student for given weights, read as their keys tell."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segkd.models._checkpoints import describe, guess, read, write
from segkd.models._prediction import Normalize
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.deeplabv3plus import DeepLabV3Plus
from segkd.models.pspnet import PSPNet

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
CLASSES = {"deeplabv3": DeepLabV3, "deeplabv3plus": DeepLabV3Plus, "pspnet": PSPNet}

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not here")


def fill_rule():
    """The rule that weights and inputs of the recorded cases are made by, which lies outside the package."""
    spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def largest_error(ours, wanted):
    assert ours.shape == wanted.shape
    return np.abs(ours.numpy() - wanted).max() / wanted.std()


@pytest.mark.parametrize(
    ("folder", "name", "tolerance"),
    [
        ("mmseg", "parity_deeplabv3_r18_d8_19", 1e-6),
        ("mmseg", "parity_pspnet_r18_d8_21", 1e-6),
        ("mmseg", "parity_deeplabv3plus_mbv2_d8_19", 1e-6),
        # the others recorded a float32 forward, whose own error is of this size
        ("tsic", "parity_student_dlv3_r18_c19", 1e-5),
        ("cirkd", "parity_psp_resnet18", 1e-5),
        ("cirkd", "parity_psp_mobilenetv3_large", 5e-5),
        ("dist", "parity_psp_mobile_mobilenetv2", 1e-4),
    ],
)
def test_scores_and_maps(folder, name, tolerance):
    rule = fill_rule()
    case = next(case for case in json.loads((GOLDEN / folder / "parity.json").read_text()) if case["case"] == name)
    theirs = {key: torch.from_numpy(value) for key, value in rule.fill_state(case["entries"]).items()}

    layout = guess(theirs)
    assert layout == ("cirkd" if folder in ("cirkd", "dist") else "mmseg")
    found = describe(theirs, layout)
    network = CLASSES[found.model](found.num_classes, **found.args)
    ours = read(theirs, layout)
    network.load_state_dict(ours)
    back = write(ours, layout)
    assert back.keys() == theirs.keys() and all(torch.equal(back[key], theirs[key]) for key in theirs)

    network.normalize = Normalize.named("none")
    network.eval().double()
    network.aux_wanted, network.features_wanted = True, {"stage1", "stage2", "stage3", "stage4", "head"}
    with torch.no_grad():
        prediction = network(torch.from_numpy(rule.fill_input(case["input_shape"])).double())
    with np.load(GOLDEN / folder / f"{name}.npz") as arrays:
        for key, wanted in arrays.items():
            ours = recorded_part(prediction, key.removeprefix("expected:"), case)
            assert largest_error(ours, wanted) < tolerance, key


def recorded_part(prediction, name, case):
    """What a case has recorded under a name, out of our prediction."""
    step = case.get("logits_step", 1)
    channels, *_ = case.get("feature_step", (1,))
    stages = {"feat3": "stage3", "feat4": "stage4"} | {f"layer{n}": f"stage{n}" for n in (1, 2, 3, 4)}
    if name == "logits":
        return prediction.logits[:, :, ::step, ::step]
    if name in ("aux", "aux_logits"):
        return prediction.aux[:, :, ::2, ::2] if name == "aux" else prediction.aux
    if name == "feature_sub":
        return prediction.features["head"][:, ::channels, ::2, ::2]
    if name == "logits_input_size":
        return prediction.resized(tuple(case["input_shape"][-2:]))[:, :, ::4, ::4]
    stage = prediction.features[stages[name]]
    return stage[:, :: 8 if name.startswith("layer") else stage.shape[1] // 16]
