"""Golden cases of RMRKD: from the recorded loss names and params to the classes in losses/."""

import torch
import torch.nn.functional as F
from parity_losses import Arrays, build, prediction, results, task_for, tensors
from torch import Tensor, nn

from segkd.losses._regions import labels_at
from segkd.losses.cross_similarity import CrossSimilarity
from segkd.losses.dkd import DKD
from segkd.losses.mgd import MGD
from segkd.losses.region_cosine import RegionCosine
from segkd.losses.region_distance import RegionDistance

# the original's module names -> ours
MODULES = {"align": "align", "generation": "generation", "embed_s.proj": "embed"}


def load(loss: nn.Module, arrays: Arrays) -> dict[str, Tensor]:
    """Puts the recorded state into a loss; its parameters and buffers under their recorded names."""
    ours = {}
    for key in arrays:
        if key.startswith("state:"):
            recorded = key.removeprefix("state:")
            prefix = next(name for name in MODULES if recorded.startswith(name + "."))
            ours[recorded] = MODULES[prefix] + recorded.removeprefix(prefix)
    loss.load_state_dict({name: torch.from_numpy(arrays[f"state:{recorded}"]) for recorded, name in ours.items()})
    held = dict(loss.named_parameters()) | dict(loss.named_buffers())
    return {recorded: held[name] for recorded, name in ours.items()}


def regions(case: dict, arrays: Arrays) -> Arrays:
    """The three forms of RMRKD's feature term."""
    params, inputs = case["params"], tensors(arrays)
    resize = "bilinear_trunc" if params["label_resize"].startswith("bilinear") else "nearest"
    kind = {"cross_sim": CrossSimilarity, "euclidean": RegionDistance, "cosine": RegionCosine}[params["distance_type"]]
    options = {"temperature": params["tau"]} if kind is CrossSimilarity else {}
    channels = [{"stage4": params[f"{owner}_channels"]} for owner in ("student", "teacher")]
    task = task_for(params["num_classes"], params["ignore_index"], *channels)
    loss = build(kind, task, label_resize=resize, **options)
    held = load(loss, arrays)
    loss.train(params.get("batch_norm_mode") != "eval")
    student, teacher = (prediction(stage4=inputs[owner]) for owner in ("student", "teacher"))
    target = inputs["labels"].squeeze(1)  # (B, 1, H, W) -> (B, H, W)
    value = params["loss_weight"] * loss(student, teacher, target)
    small = labels_at(target, inputs["teacher"].shape[-2:], resize)[:, None]
    after = {f"after:{name}": tensor for name, tensor in held.items() if not tensor.requires_grad}
    return results(value, inputs | held, labels_small=small, **after)


def mgd(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    channels = [{"stage4": params[f"{owner}_channels"]} for owner in ("student", "teacher")]
    loss = build(MGD, task_for(2, 255, *channels), masked=params["lambda_mgd"])
    held = load(loss, arrays)
    features, goal = loss.pair.maps(
        prediction(stage4=inputs["student"]), prediction(stage4=inputs["teacher"].detach()), loss.align
    )
    value = params["alpha_mgd"] * loss.error(features, goal, torch.from_numpy(arrays["draw:uniform"]))
    return results(value, inputs | held)


def dkd(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    names = [name for name in ("align.weight", "align.bias") if f"state:{name}" in arrays]
    held = {name: torch.from_numpy(arrays[f"state:{name}"]).requires_grad_() for name in names}
    s, t = inputs["student_logits"], inputs["teacher_logits"]
    # the original is able to map the student's scores first; here both networks have the data set's classes
    mapped = F.conv2d(s, *held.values()) if held else s
    loss = build(
        DKD,
        task_for(t.shape[1], params["ignore_index"]),
        temperature=params["tau"],
        target_weight=params["loss_weight1"],
        rest_weight=params["loss_weight2"],
        softmax_over={0: "batch_class", 1: "spatial"}[params["dim"]],
        segment=params["segment"],
        merge_label=params["merge_label"],
    )
    target = inputs["labels"].squeeze(1)  # (B, 1, H, W) -> (B, H, W)
    value = loss(prediction(mapped), prediction(t.detach()), target)
    return results(value, inputs | held, labels_small=labels_at(target, t.shape[-2:])[:, None])


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

NEAR = {"relative": 1e-9}
TOLERANCE = {loss: NEAR for loss in RUNNERS} | {
    # the original's class masks are float32 and with them its centres' divisors; cosines do not see these
    "rmrkd_euclidean": {"relative": 1e-6},
}
