"""Golden loss cases: from the recorded loss names and params to the classes in losses/."""

from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.losses._task import Features, Task, resize
from segkd.losses.cross_entropy import CrossEntropy
from segkd.losses.fitnet import FitNet
from segkd.losses.kl import KL

Arrays = dict[str, np.ndarray]

# some originals add the smallest float32 step to a pixel count; it shows at these tests' sizes, not at real ones
EPSILON = torch.finfo(torch.float32).eps


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Inputs by name; floating ones are leaves that collect a gradient."""
    found = {}
    for key, array in arrays.items():
        if key.startswith("input:"):
            tensor = torch.from_numpy(array)
            found[key.removeprefix("input:")] = tensor.requires_grad_(tensor.is_floating_point())
    return found


def build(kind: type[nn.Module], task: Task, **options) -> nn.Module:
    """The loss in float64: its weights and constants are made at the precision of the recorded numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return kind(task, **options)
    finally:
        torch.set_default_dtype(before)


def prediction(logits: Tensor | None = None, align_corners: bool = False, **features: Tensor) -> SimpleNamespace:
    return SimpleNamespace(logits=logits, align_corners=align_corners, aux=None, features=features)


def results(loss: Tensor, inputs: dict[str, Tensor], **others: Tensor) -> Arrays:
    """The value and the gradient with respect to every floating input."""
    leaves = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    arrays = {"loss": loss, **others}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        arrays[f"grad:{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {name: value.detach().numpy() for name, value in arrays.items()}


def task_for(num_classes: int, ignore_index: int, student: dict | None = None, teacher: dict | None = None) -> Task:
    return Task(
        num_classes, ignore_index, Features("student", student or {}, {}), Features("teacher", teacher or {}, {})
    )


def cirkd_ce(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    logits = inputs["student_logits"]
    loss = build(CrossEntropy, task_for(logits.shape[1], params["ignore_index"]))
    return results(loss(prediction(logits, params["align_corners"]), None, inputs["target"]), inputs)


def seg_ce(case: dict, arrays: Arrays) -> Arrays:
    """Two originals share the name: AICSD's, which may divide by the batch, and TSIC's decode head."""
    return aicsd_ce(case, arrays) if "divide_by_batch" in case["params"] else decode_head_ce(case, arrays)


def aicsd_ce(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    logits = inputs["student_logits"]
    options = {}
    if "state:class_weights" in arrays:
        options["class_weights"] = arrays["state:class_weights"].tolist()
    if "gamma" in params:
        options["focal_gamma"] = params["gamma"]
        options["focal_alpha"] = 1.0 if params["alpha"] is None else params["alpha"]
    divisor = "valid_x_batch" if params["divide_by_batch"] else "valid"
    loss = build(CrossEntropy, task_for(logits.shape[1], params["ignore_index"]), divisor=divisor, **options)
    return results(loss(prediction(logits, True), None, inputs["target"]), inputs)


def decode_head_ce(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    logits, target = inputs["logits"], inputs["labels"]
    options = {}
    if params["min_kept_per_image"] is not None:
        options = {"ohem_min_kept": params["min_kept_per_image"], "ohem_threshold": params["thresh"]}
    task = task_for(logits.shape[1], params["ignore_index"])
    loss = build(CrossEntropy, task, divisor="all", ohem_rule="image", **options)
    value = loss(prediction(logits, params["align_corners"]), None, target)
    value = value * params["loss_weight"] * target.numel() / (target.numel() + EPSILON)
    if not options:
        return results(value, inputs)
    upsampled = resize(logits.detach(), target.shape[-2:], params["align_corners"])
    ce = F.cross_entropy(upsampled, target, ignore_index=params["ignore_index"], reduction="none")
    valid = target != params["ignore_index"]
    kept = loss.hard_pixels(ce, valid)
    if params["thresh"] is None:
        kept[valid] = as_sorted(kept[valid], ce[valid])
    return results(value, inputs, pixel_weight=kept.long())


def as_sorted(kept: Tensor, ce: Tensor) -> Tensor:
    """The same choice of pixels (n,) with ties at the bound broken as the original's unstable sort breaks them.

    Upsampling repeats border pixels; which of several equal ones is kept changes neither the loss nor its gradient.
    """
    if not kept.any():
        return kept
    tied = ce == ce[kept].min()
    order = ce.sort(descending=True).indices
    order = order[tied[order]]
    chosen = kept & ~tied
    chosen[order[: (kept & tied).sum()]] = True
    return chosen


def mmseg_ce(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    logits, target = inputs["logits"], inputs["labels"].squeeze(1)  # (B, 1, H, W) -> (B, H, W)
    align_corners = "align_corners True" in params["resize"]
    counted = target != params["ignore_index"]
    divisor = "valid" if params["avg_non_ignore"] else "all"
    loss = build(CrossEntropy, task_for(logits.shape[1], params["ignore_index"]), divisor=divisor)
    value = params["loss_weight"] * loss(prediction(logits, align_corners), None, target)
    if params["avg_non_ignore"]:
        value = value * counted.sum() / (counted.sum() + EPSILON)
    winner = resize(logits.detach(), target.shape[-2:], align_corners).argmax(1)
    right = (winner == target) & counted
    percent = 100 * (right.sum().double() + EPSILON) / (counted.sum() + EPSILON)
    return results(value, inputs, acc_seg=percent.view(1))


def trikd_ce(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    options = {}
    if "min_kept" in params:
        weights = params["class_weights"]
        options = {
            "ohem_min_kept": params["min_kept"],
            "ohem_threshold": params["thresh"],
            "class_weights": "cityscapes" if isinstance(weights, str) else weights,
        }
    # not in float64: the original keeps its class weights in float32, whatever the logits are
    loss = CrossEntropy(task_for(params["num_classes"], params["ignore_index"]), **options)
    arrays = results(loss(prediction(inputs["logits"], True), None, inputs["labels"]), inputs)
    arrays["num_kept"] = np.count_nonzero(np.abs(arrays["grad:logits"]).sum(1))
    return arrays


def cirkd_kd(case: dict, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    return distil(inputs, 1.0, temperature=case["params"]["temperature"])


def aicsd_kd(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    return distil(
        inputs,
        params["weight"],
        temperature=params["temperature"],
        reduction="pixel" if "sum over classes" in params["reduction"] else "element",
        temperature_squared=params["t_squared"],
    )


def tsic_kd(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    return distil(
        inputs,
        params["ratio"],
        align_corners=params["align_corners"],
        detach=params["teacher_detached"],
        temperature=params["temperature"],
        reduction="element",
        size="teacher",
    )


def distil(
    inputs: dict[str, Tensor], weight: float, *, align_corners: bool = False, detach: bool = False, **options
) -> Arrays:
    student, teacher = inputs["student_logits"], inputs["teacher_logits"]
    loss = build(KL, task_for(student.shape[1], 255), **options)
    guide = prediction(teacher.detach() if detach else teacher, align_corners)
    return results(weight * loss(prediction(student, align_corners), guide, None), inputs)


def fitnet(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    loss = build(FitNet, task_for(2, 255, {"head": params["s_channels"]}, {"head": params["t_channels"]}))
    loss.load_state_dict({"projection.weight": torch.from_numpy(arrays["state:conv.weight"])})
    student, teacher = (prediction(head=inputs[f"{owner}_feature"]) for owner in ("student", "teacher"))
    return results(loss(student, teacher, None), {**inputs, "conv.weight": loss.projection.weight})


RUNNERS = {
    "task_ce": cirkd_ce,
    "seg_ce": seg_ce,
    "seg_focal": aicsd_ce,
    "seg_ce_ohem": decode_head_ce,
    "mmseg_ce": mmseg_ce,
    "sup_ohem": trikd_ce,
    "sup_ce": trikd_ce,
    "kd": cirkd_kd,
    "kd_code": aicsd_kd,
    "kd_paper": aicsd_kd,
    "tsic_ts_kl": tsic_kd,
    "fitnet": fitnet,
}

NEAR = {"relative": 1e-9}
TOLERANCE = {loss: NEAR for loss in RUNNERS} | {
    # the recorded percentage went through float32
    "mmseg_ce": {"acc_seg": {"relative": 1e-6}, "*": NEAR},
}
