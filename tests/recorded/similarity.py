"""Golden cases of DIST, of AICSD's loss and of the baselines it compares with: from recorded names to losses/."""

from functools import partial

import torch
from recorded.arrays import Arrays, Tensors, both, build, on_maps, prediction, restore, results, states, task_of
from torch import Tensor

from segkd.losses._task import Features, Task
from segkd.losses.dist import DIST
from segkd.losses.ickd import ICKD
from segkd.losses.ics import ICS
from segkd.losses.overhaul import Overhaul, margins, partial_l2
from segkd.losses.sp import SP

# the recorded name of each reading of the inter-class similarity loss
ICS_VARIANTS = {
    "ics_code": "released",
    "ics_branch": "branch",
    "ics_fixed": "symmetric",
    "ics_paper": "paper",
    "ics_paper_raw": "raw",
}


def dist(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student, teacher = (prediction(as_maps(inputs[f"{owner}_logits"])) for owner in ("student", "teacher"))
    names = {"beta": "inter", "gamma": "intra", "temperature": "temperature", "eps": "eps", "aux_weight": "aux_weight"}
    options = {ours: params[theirs] for theirs, ours in names.items() if theirs in params}
    loss = build(DIST, task_of(student, teacher, ignore_index=params.get("ignore_index", 255)), **options)
    inter, intra = loss.distances(student.logits, teacher.logits)
    return results(loss(student, teacher, None), inputs, inter=inter, intra=intra)


def as_maps(logits: Tensor) -> Tensor:
    """(N, K) rows, the form for whole images, as one map of N pixels; (B, K, h, w) as it is."""
    return logits.T[None, :, :, None] if logits.ndim == 2 else logits


def ics(variant: str, params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    pair = both(inputs, "logits")
    options = {"temperature": params.get("temperature", 1.0), "eps": params.get("normalize_eps", 1e-12)}
    loss = build(ICS, task_of(*pair), variant=variant, size="student", **options)
    matrices = {f"ics_{owner}": loss.matrix(inputs[f"{owner}_logits"]) for owner in ("student", "teacher")}
    return results(params["weight"] * loss(*pair, None), inputs, **matrices)


def class_correlation(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    pair = both(inputs, "logits")
    loss = build(ICKD, task_of(*pair), feature=None)
    return results(params["weight"] * loss(*pair, None), inputs)


def channel_correlation(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    pair = both(inputs, "feature")
    loss = build(ICKD, task_of(*pair), feature="map")
    held = restore(loss, states(arrays), names={"embed.0": "embed.conv", "embed.1": "embed.bn"})
    loss.embed[1].eps = params["bn_eps"]
    return results(params["weight"] * loss(*pair, None), inputs | held)


def similarity(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    return on_maps(SP, inputs, params["weight"])


def overhaul_margin(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    return {"margin": margins(inputs["bn_weight"], inputs["bn_bias"], params["cdf_threshold"]).numpy()}


def overhaul_distance(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    state = states(arrays)
    goal = inputs["teacher_feature"]
    if "margin" in state:
        goal = torch.maximum(goal, state["margin"])
    return results(partial_l2(inputs["student_feature"], goal), inputs)


def overhaul_total(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    state = states(arrays)
    divisors = params["layer_dividers"]
    levels = range(len(divisors))
    maps = {o: {f"map{i}": inputs[f"{o}_feature{i}"] for i in levels} for o in ("student", "teacher")}
    student, teacher = (
        Features(owner, {name: x.shape[1] for name, x in features.items()}, {}) for owner, features in maps.items()
    )
    teacher.norms.update({f"map{i}": (state[f"teacher_bn{i}.weight"], state[f"teacher_bn{i}.bias"]) for i in levels})
    loss = build(Overhaul, Task(2, 255, student, teacher), features=tuple(maps["student"]), divisors=tuple(divisors))
    # the batch norm of a connector starts as it is here
    held = {}
    for index, connector in enumerate(loss.connectors):
        held |= restore(connector[0], state, f"connector{index}.conv.")
    value = loss(prediction(**maps["student"]), prediction(**maps["teacher"]), None)
    batch = len(inputs["student_feature0"])
    raw = value * batch
    return results(params["ratio"] * (value if params["divide_by_batch"] else raw), inputs | held, raw=raw)


RUNNERS = {
    "dist": dist,
    **{name: partial(ics, variant) for name, variant in ICS_VARIANTS.items()},
    "ic_code": class_correlation,
    "ickd_official": channel_correlation,
    "sp": similarity,
    "overhaul_margin": overhaul_margin,
    "overhaul_partial_l2": overhaul_distance,
    "overhaul_no_margin": overhaul_distance,
    "overhaul_total": overhaul_total,
}

TOLERANCE = {
    # recorded in float32
    "overhaul_margin": {"relative": 1e-6},
}
