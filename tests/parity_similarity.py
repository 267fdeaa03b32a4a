"""Golden cases of DIST, of AICSD's loss and of the baselines it compares with: from recorded names to losses/."""

import torch
from parity_losses import Arrays, build, prediction, results, task_for, tensors
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


def dist(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    student, teacher = (as_maps(inputs[f"{owner}_logits"]) for owner in ("student", "teacher"))
    loss = dist_loss(params, student.shape[1])
    inter, intra = loss.distances(student, teacher)
    return results(loss(prediction(student), prediction(teacher), None), inputs, inter=inter, intra=intra)


def dist_loss(params: dict, num_classes: int) -> DIST:
    names = {"beta": "inter", "gamma": "intra", "temperature": "temperature", "eps": "eps", "aux_weight": "aux_weight"}
    options = {ours: params[theirs] for theirs, ours in names.items() if theirs in params}
    return build(DIST, task_for(num_classes, params.get("ignore_index", 255)), **options)


def as_maps(logits: Tensor) -> Tensor:
    """(N, K) rows, the form for whole images, as one map of N pixels; (B, K, h, w) as it is."""
    return logits.T[None, :, :, None] if logits.ndim == 2 else logits


def ics(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    loss = ics_loss(case["loss"], params, inputs["student_logits"].shape[1])
    student, teacher = (inputs[f"{owner}_logits"] for owner in ("student", "teacher"))
    value = params["weight"] * loss(prediction(student), prediction(teacher), None)
    matrices = {f"ics_{owner}": loss.matrix(inputs[f"{owner}_logits"]) for owner in ("student", "teacher")}
    return results(value, inputs, **matrices)


def ics_loss(name: str, params: dict, num_classes: int) -> ICS:
    options = {"temperature": params.get("temperature", 1.0), "eps": params.get("normalize_eps", 1e-12)}
    return build(ICS, task_for(num_classes, 255), variant=ICS_VARIANTS[name], size="student", **options)


def class_correlation(case: dict, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    student, teacher = (prediction(inputs[f"{owner}_logits"]) for owner in ("student", "teacher"))
    loss = build(ICKD, task_for(student.logits.shape[1], 255), feature=None)
    return results(case["params"]["weight"] * loss(student, teacher, None), inputs)


def channel_correlation(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    student, teacher, task = compared(inputs)
    loss = build(ICKD, task, feature="map")
    conv, norm = loss.embed
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(arrays["state:embed.conv.weight"]))
        norm.weight.copy_(torch.from_numpy(arrays["state:embed.bn.weight"]))
        norm.bias.copy_(torch.from_numpy(arrays["state:embed.bn.bias"]))
    norm.eps = params["bn_eps"]
    learnt = {"embed.conv.weight": conv.weight, "embed.bn.weight": norm.weight, "embed.bn.bias": norm.bias}
    return results(params["weight"] * loss(student, teacher, None), inputs | learnt)


def similarity(case: dict, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    student, teacher, task = compared(inputs)
    return results(case["params"]["weight"] * build(SP, task, feature="map")(student, teacher, None), inputs)


def compared(inputs: dict[str, Tensor]):
    """The two features of a case as predictions, and the task that fits."""
    maps = [inputs[f"{owner}_feature"] for owner in ("student", "teacher")]
    task = task_for(2, 255, *({"map": m.shape[1]} for m in maps))
    return *(prediction(map=m) for m in maps), task


def overhaul_margin(case: dict, arrays: Arrays) -> Arrays:
    weight, bias = (torch.from_numpy(arrays[f"input:bn_{name}"]) for name in ("weight", "bias"))
    return {"margin": margins(weight, bias, case["params"]["cdf_threshold"]).numpy()}


def overhaul_distance(case: dict, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    goal = inputs["teacher_feature"]
    if "state:margin" in arrays:
        goal = torch.maximum(goal, torch.from_numpy(arrays["state:margin"]))
    return results(partial_l2(inputs["student_feature"], goal), inputs)


def overhaul_total(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    divisors = params["layer_dividers"]
    names = tuple(f"map{index}" for index in range(len(divisors)))
    maps = {o: {n: inputs[n.replace("map", f"{o}_feature")] for n in names} for o in ("student", "teacher")}
    task = Task(
        2,
        255,
        Features("student", {n: m.shape[1] for n, m in maps["student"].items()}, {}),
        Features("teacher", {n: m.shape[1] for n, m in maps["teacher"].items()}, {}, norms={
            n: tuple(torch.from_numpy(arrays[f"state:{n.replace('map', 'teacher_bn')}.{part}"])
                     for part in ("weight", "bias")) for n in names}),
    )  # fmt: skip
    loss = build(Overhaul, task, features=names, divisors=tuple(divisors))
    learnt = {}
    for index, connector in enumerate(loss.connectors):
        key = f"connector{index}.conv.weight"
        with torch.no_grad():
            connector[0].weight.copy_(torch.from_numpy(arrays[f"state:{key}"]))
        learnt[key] = connector[0].weight
    value = loss(prediction(**maps["student"]), prediction(**maps["teacher"]), None)
    batch = len(maps["student"]["map0"])
    if not params["divide_by_batch"]:
        value = value * batch
    raw = value * batch if params["divide_by_batch"] else value
    return results(params["ratio"] * value, inputs | learnt, raw=raw)


RUNNERS = {
    "dist": dist,
    **dict.fromkeys(ICS_VARIANTS, ics),
    "ic_code": class_correlation,
    "ickd_official": channel_correlation,
    "sp": similarity,
    "overhaul_margin": overhaul_margin,
    "overhaul_partial_l2": overhaul_distance,
    "overhaul_no_margin": overhaul_distance,
    "overhaul_total": overhaul_total,
}

TOLERANCE = {loss: {"relative": 1e-9} for loss in RUNNERS} | {
    # recorded in float32
    "overhaul_margin": {"relative": 1e-6},
}
