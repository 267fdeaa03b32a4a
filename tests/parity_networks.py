"""Recorded network cases: a checkpoint given by its keys and shapes, and what its original network makes of an input.

A case is read as a user's file would be: whose keys these are is guessed, the network is built from what they tell,
the entries are renamed and loaded strictly. Of each expected map only a part may be stored, every n-th channel, row
and column: the strides are those with which the sizes agree.
"""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import parity_sam
import torch
from parity_fill import fill_input, filled
from torch import Tensor, nn

from segkd.models import _checkpoints
from segkd.models._prediction import Normalize, Prediction
from segkd.models._weights import fill
from segkd.runner.recipe import parts

TOLERANCE = 1e-4  # of the standard deviation of the expected map, unless a case's note allows more

# layout -> expected name -> our features of that name, the first one the network has
FEATURES = {
    "mmseg": {f"feat{i}": [f"stage{i}"] for i in range(1, 5)} | {f"layer{i}": [f"stage{i}"] for i in range(1, 5)},
    "aicsd": {
        "feat0": ["stage1_expand", "stage1_pre"],
        "feat1": ["stage2_expand", "stage2_pre"],
        "feat2": ["stage3_expand", "stage3_pre"],
        "feat3": ["stage4_pre", "stage4"],
        "feat4": ["aspp_pre"],
        "feat5": ["decoder_pre"],
    },
    "cirkd": {"feature_sub": ["head"]},
    "trikd": {"low": ["low", "stage1"], "attn": ["attention"]},
}


def find_cases(folder: Path) -> list[dict]:
    """The cases of all parity*.json of a folder."""
    return [case for file in sorted(folder.glob("parity*.json")) for case in json.loads(file.read_text())]


def run_case(folder: Path, case: dict) -> list[str]:
    """Faults of one case, each as text; an empty list is a pass."""
    file = folder / case.get("npz", f"{case['case']}.npz")
    with np.load(file) as stored:
        arrays = dict(stored)
    expected = {key.removeprefix("expected:"): arrays.pop(key) for key in list(arrays) if key.startswith("expected:")}
    state = filled(case)
    computed = parity_sam.run(case, state, arrays)
    if computed is None:
        computed = run_network(case, state, expected)
    stated_tolerance = re.search(r"rtol (\d+e-\d+) of the std", case.get("note", ""))
    tolerance = float(stated_tolerance[1]) if stated_tolerance else TOLERANCE
    faults = []
    for name, wanted in expected.items():
        if name not in computed:
            faults.append(f"{name}: not computed")
            continue
        candidates = computed[name] if isinstance(computed[name], list) else [computed[name]]
        error = min(distance(np.asarray(ours), wanted) for ours in candidates)
        if not error <= tolerance:
            faults.append(f"{name}: error {error:.3g} of the standard deviation, tolerance {tolerance:.0e}")
    return faults


def run_network(case: dict, state: dict[str, Tensor], expected: dict[str, np.ndarray]) -> dict:
    """Expected name -> our map, or several that it may be, of the whole network in float64."""
    layout = _checkpoints.guess(state)
    network = built(case, state, layout)
    names = {
        name: next(own for own in FEATURES[layout][name] if own in network.channels)
        for name in expected
        if name in FEATURES.get(layout, {})
    }
    network.features_wanted, network.aux_wanted = set(names.values()), network.aux_head is not None
    images = fill_input(case["input_shape"]).double()
    with torch.no_grad():
        prediction: Prediction = network(images)
    at_input_size = prediction.resized(images.shape[-2:])
    found = {name: prediction.features[own] for name, own in names.items()}
    found |= {"logits": [prediction.logits, at_input_size], "aux": prediction.aux, "aux_logits": prediction.aux}
    return found | {"logits_float64": at_input_size, "logits_input_size": at_input_size}


def built(case: dict, state: dict[str, Tensor], layout: str) -> nn.Module:
    """The network a checkpoint describes, with its weights, in eval mode and float64, taking inputs as they are."""
    described = _checkpoints.describe(state, layout)
    args = described.args | stated(case, described.model)
    network = parts.build("models", described.model, args, described.num_classes)
    entries = _checkpoints.read(state, layout)
    if hasattr(network, "fitted"):
        entries = network.fitted(entries)
    fill(network, entries, case["case"])
    network.normalize = Normalize.named("none")
    return network.eval().double()


def stated(case: dict, model: str) -> dict:
    """Arguments that weights cannot tell and a case says in words: the output stride, the size of square inputs."""
    words = case["model"].lower()
    args = {}
    for stride in (8, 16, 32):
        if any(text in words for text in (f"output stride {stride}", f"os {stride})", f"(os {stride}")):
            args["output_stride"] = stride
    known = {key: value for key, value in args.items() if not parts.wrong_arguments("models", model, {key: value})}
    return known


def distance(ours: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference over the standard deviation of the wanted array, for the strides that fit best."""
    if ours.ndim != wanted.ndim:
        return float("inf")
    scale = wanted.std() if wanted.size > 1 and wanted.std() > 0 else max(np.abs(wanted).max(initial=0), 1e-12)
    steps = [
        [step for step in range(1, have + 1) if -(-have // step) == want]
        for have, want in zip(ours.shape, wanted.shape, strict=True)
    ]
    errors = (
        np.abs(ours[tuple(slice(None, None, step) for step in chosen)].astype(np.float64) - wanted).max()
        for chosen in itertools.product(*(found[:8] for found in steps))
    )
    return float(min(errors, default=float("inf")) / scale)
