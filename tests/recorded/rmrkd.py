"""Golden cases of RMRKD: from the recorded loss names and params to the classes in losses/."""

import torch.nn.functional as F
from recorded.arrays import Arrays, Tensors, both, build, named, prediction, restore, results, states, task_of

from segkd.losses._regions import labels_at
from segkd.losses.cross_similarity import CrossSimilarity
from segkd.losses.dkd import DKD
from segkd.losses.mgd import MGD
from segkd.losses.region_cosine import RegionCosine
from segkd.losses.region_distance import RegionDistance

REGIONS = {"cross_sim": CrossSimilarity, "euclidean": RegionDistance, "cosine": RegionCosine}
# a module of our losses -> the original's name of it
MODULES = {"embed": "embed_s.proj"}


def region_options(params: dict) -> dict:
    """Our arguments for the original's RMRKDLoss."""
    assert params["decoupled"], "pixels outside a region are always compared too"
    how = "bilinear_trunc" if params.get("label_resize", "bilinear").startswith("bilinear") else "nearest"
    return {"label_resize": how} | ({"temperature": params["tau"]} if params["distance_type"] == "cross_sim" else {})


def dkd_options(params: dict) -> dict:
    """Our arguments for the original's DecoupledKD."""
    return {
        "temperature": params["tau"],
        "target_weight": params["loss_weight1"],
        "rest_weight": params["loss_weight2"],
        "softmax_over": {0: "batch_class", 1: "spatial"}[params["dim"]],
        "segment": params.get("segment", False),
        "merge_label": params.get("merge_label"),
    }


def regions(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """The three forms of RMRKD's feature term."""
    pair, options = both(inputs, ""), region_options(params)
    task = task_of(*pair, num_classes=params["num_classes"], ignore_index=params["ignore_index"])
    loss = build(REGIONS[params["distance_type"]], task, feature="map", **options)
    held = restore(loss, states(arrays), names=MODULES)
    loss.train(params.get("batch_norm_mode") != "eval")
    target = inputs["labels"].squeeze(1)  # (B, 1, H, W) -> (B, H, W)
    value = params["loss_weight"] * loss(*pair, target)
    small = labels_at(target, inputs["teacher"].shape[-2:], options["label_resize"])[:, None]
    after = {f"after:{name}": tensor for name, tensor in held.items() if not tensor.requires_grad}
    return results(value, inputs | held, labels_small=small, **after)


def mgd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student, teacher = both(inputs, "")
    loss = build(MGD, task_of(student, teacher), feature="map", masked=params["lambda_mgd"])
    held = restore(loss, states(arrays))
    features, goal = loss.pair.maps(student, prediction(map=inputs["teacher"].detach()), loss.align)
    return results(params["alpha_mgd"] * loss.error(features, goal, named(arrays, "draw")["uniform"]), inputs | held)


def dkd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    state = states(arrays)
    held = {name: state[name].requires_grad_() for name in ("align.weight", "align.bias") if name in state}
    student, teacher = both(inputs, "logits")
    # the original is able to map the student's scores first; here both networks have the data set's classes
    if held:
        student.logits = F.conv2d(student.logits, *held.values())
    teacher.logits = teacher.logits.detach()
    loss = build(DKD, task_of(student, teacher, ignore_index=params["ignore_index"]), **dkd_options(params))
    target = inputs["labels"].squeeze(1)  # (B, 1, H, W) -> (B, H, W)
    small = labels_at(target, teacher.logits.shape[-2:])[:, None]
    return results(loss(student, teacher, target), inputs | held, labels_small=small)


RUNNERS = {
    "rmrkd_cross_sim": regions,
    "rmrkd_euclidean": regions,
    "rmrkd_cosine": regions,
    "mgd": mgd,
    "dkd": dkd,
    "dkd_dim0": dkd,
    "dkd_segment": dkd,
    "dkd_merge": dkd,
}

TOLERANCE = {
    # the original's class masks are float32 and with them its centres' divisors; cosines do not see these
    "rmrkd_euclidean": {"relative": 1e-6},
}
