"""Recorded network cases: a checkpoint given by its keys and shapes, and what its original network makes of an input.

A case is read as a user's file would be: the layout is guessed from the keys, the network is built from what they
say, the entries are renamed and loaded strictly.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
from recorded import sam
from recorded.arrays import Arrays
from recorded.checkpoints import describe, network_of
from recorded.compare import compare_map
from recorded.fill import fill_input, fill_state
from torch import Tensor

TOLERANCE = 1e-4  # of the standard deviation of the expected map, unless a case's note allows more
TERM_TOLERANCE = 1e-5  # of a scalar of a step in float32

# layout, or file name in models/ -> expected name -> our features of that name, the first one the network has
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
    "pidnet": {
        "stem": ["stage2"],
        "i3": ["stage3"],
        "i4": ["stage4"],
        "i5": ["stage5"],
        "p3": ["p3_pre"],
        "p4": ["p4_pre"],
        "spp": ["pyramid"],
    },
    "ddrnet": {"stem": ["stage2"], "spp": ["pyramid"]},
    "stdc": {
        "feat8": ["stage2"],
        "feat16": ["stage3"],
        "feat32": ["stage4"],
        "cp16": ["context16"],
        "cp8": ["context8"],
    },
    "lraspp": {
        "high": ["stage4"],
        "low": ["stage2_first"],
        "feat_s2": ["stage0"],
        "feat_s4": ["stage1"],
        "feat_s8": ["stage4"],
    },
    "segnext": {f"feat{i}": [f"stage{i}"] for i in range(1, 5)},
    "bisenetv2": {
        "feat2": ["stage1"],
        "feat3": ["stage2"],
        "feat4": ["stage3"],
        "feat5_4": ["stage4"],
        "feat_s": ["context"],
        "aux5_4_logits": ["aux5"],
    },
    "efficientvit_seg": {"head": ["middle"]},
    "topformer": {"level4": ["stage1"]},
}
# file name in models/ -> expected name -> the module whose output it is, where that is no feature
MODULES = {"lraspp": {"gate": "gate"}, "efficientvit_seg": {"logits": "classifier"}}


def find_cases(folder: Path) -> list[dict]:
    """The cases of all parity*.json of a folder: a list of them, one alone, or {name: case}."""
    found = []
    for file in sorted(folder.glob("parity*.json")):
        cases = json.loads(file.read_text())
        if isinstance(cases, dict):
            cases = [cases] if "entries" in cases else [{"case": name} | case for name, case in cases.items()]
        found += [case | {"loss": "network"} for case in cases]
    return found


def name_of(case: dict) -> str:
    """What a case calls its network, without the sizes."""
    return "network " + re.split("[,(]", case["model"])[0].strip()


def compute(case: dict, arrays: Arrays, expected: Arrays) -> dict[str, Tensor | list[Tensor]] | None:
    """Expected name -> our map, or several that it may be; None: segkd has no such network."""
    state = fill_state(case)
    computed = sam.run(case, state, arrays)
    if computed is None and describe(state) is not None:
        computed = run_network(case, state, expected, arrays.get("input:nmf_bases"))
    return computed


def fault(case: dict, name: str, ours: Tensor | list[Tensor], wanted: np.ndarray, noise: float) -> str | None:
    """What is wrong with one computed map, or None."""
    stated_tolerance = re.search(r"rtol (\d+e-\d+) of the std", case.get("note", ""))
    tolerance = float(stated_tolerance[1]) if stated_tolerance else TOLERANCE
    allowed = TERM_TOLERANCE if name == "loss" or name.startswith("term:") else tolerance
    candidates = ours if isinstance(ours, list) else [ours]
    wrong = [compare_map(np.asarray(candidate), wanted, allowed, noise) for candidate in candidates]
    return wrong[-1] if all(wrong) else None


def run_network(
    case: dict, state: dict[str, Tensor], expected: Arrays, bases: np.ndarray | None = None
) -> dict[str, Tensor | list[Tensor]]:
    """Expected name -> our map, or several that it may be, of the whole network in float64.

    `bases`: those SegNeXt's original drew, in place of ours.
    """
    layout, described = describe(state)
    network = network_of(state, **stated(case)).double()
    names = {name: own for name in expected if (own := feature_of(name, (described.model, layout), network.channels))}
    network.features_wanted, network.aux_wanted = set(names.values()), network.has_aux
    if bases is not None:
        network.nmf.bases = torch.from_numpy(bases).double()
    seen = {}
    for name, path in MODULES.get(described.model, {}).items():
        network.get_submodule(path).register_forward_hook(lambda *call, name=name: seen.update({name: call[-1]}))
    images = fill_input(case["input_shape"]).double()
    with torch.no_grad():
        prediction = network(images)
    at_input_size = prediction.resized(images.shape[-2:])
    eight_times = torch.nn.functional.interpolate(prediction.logits, scale_factor=8, mode="bilinear")
    found = {name: prediction.features[own] for name, own in names.items()}
    found |= {"logits": [prediction.logits, at_input_size], "aux": prediction.aux, "aux_logits": prediction.aux}
    found |= {"logits_float64": at_input_size, "logits_input_size": at_input_size, "logits_x8": eight_times}
    return found | seen


def feature_of(name: str, owners: tuple[str, str], channels: dict[str, int]) -> str | None:
    """Our feature of an expected name: one that FEATURES names, or it has the name, or the name without `_logits`."""
    candidates = [own for owner in owners for own in FEATURES.get(owner, {}).get(name, [])]
    return next((own for own in (*candidates, name, name.removesuffix("_logits")) if own in channels), None)


def stated(case: dict) -> dict[str, int]:
    """The output stride, which does not show in weights and which a case states in words."""
    found = re.search(r"output stride (8|16|32)\b|\(?\bos (8|16|32)\)", case["model"].lower())
    return {"output_stride": int(found[1] or found[2])} if found else {}
