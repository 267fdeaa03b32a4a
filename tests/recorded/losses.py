"""Golden loss cases: from the recorded loss names and params to the classes in losses/."""

from functools import partial

import numpy as np
import torch.nn.functional as F
from recorded.arrays import EPSILON, Arrays, Tensors, both, build, prediction, restore, results, states, task_of
from torch import Tensor

from segkd.losses._task import resize
from segkd.losses.cross_entropy import CrossEntropy
from segkd.losses.fitnet import FitNet
from segkd.losses.kl import KL


def cirkd_ce(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student = prediction(inputs["student_logits"], params["align_corners"])
    loss = build(CrossEntropy, task_of(student, ignore_index=params["ignore_index"]))
    return results(loss(student, None, inputs["target"]), inputs)


def seg_ce(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """Two originals share the name: AICSD's, which may divide by the batch, and TSIC's decode head."""
    return (aicsd_ce if "divide_by_batch" in params else decode_head_ce)(params, inputs, arrays)


def aicsd_ce(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student = prediction(inputs["student_logits"], True)
    options = {}
    if "state:class_weights" in arrays:
        options["class_weights"] = arrays["state:class_weights"].tolist()
    if "gamma" in params:
        options["focal_gamma"] = params["gamma"]
        options["focal_alpha"] = 1.0 if params["alpha"] is None else params["alpha"]
    divisor = "valid_x_batch" if params["divide_by_batch"] else "valid"
    loss = build(CrossEntropy, task_of(student, ignore_index=params["ignore_index"]), divisor=divisor, **options)
    return results(loss(student, None, inputs["target"]), inputs)


def decode_head_ce(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student, target = prediction(inputs["logits"], params["align_corners"]), inputs["labels"]
    options = {}
    if params["min_kept_per_image"] is not None:
        options = {"ohem_min_kept": params["min_kept_per_image"], "ohem_threshold": params["thresh"]}
    task = task_of(student, ignore_index=params["ignore_index"])
    loss = build(CrossEntropy, task, divisor="all", ohem_rule="image", **options)
    value = params["loss_weight"] * loss(student, None, target) * target.numel() / (target.numel() + EPSILON)
    if not options:
        return results(value, inputs)
    upsampled = resize(student.logits.detach(), target.shape[-2:], params["align_corners"])
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


def mmseg_ce(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student = prediction(inputs["logits"], "align_corners True" in params["resize"])
    target = inputs["labels"].squeeze(1)  # (B, 1, H, W) -> (B, H, W)
    counted = target != params["ignore_index"]
    divisor = "valid" if params["avg_non_ignore"] else "all"
    loss = build(CrossEntropy, task_of(student, ignore_index=params["ignore_index"]), divisor=divisor)
    value = params["loss_weight"] * loss(student, None, target)
    if params["avg_non_ignore"]:
        value = value * counted.sum() / (counted.sum() + EPSILON)
    return results(value, inputs, acc_seg=percent_right(student, target, counted).view(1))


def percent_right(student, target: Tensor, counted: Tensor) -> Tensor:
    """mmsegmentation's share of right pixels among those counted, both (B, H, W)."""
    winner = resize(student.logits.detach(), target.shape[-2:], student.align_corners).argmax(1)
    right = ((winner == target) & counted).sum().double()
    return 100 * (right + EPSILON) / (counted.sum() + EPSILON)


def trikd_ce(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student = prediction(inputs["logits"], True)
    options = {}
    if "min_kept" in params:
        weights = params["class_weights"]
        options = {
            "ohem_min_kept": params["min_kept"],
            "ohem_threshold": params["thresh"],
            "class_weights": "cityscapes" if isinstance(weights, str) else weights,
        }
    # not in float64: the original keeps its class weights in float32, whatever the logits are
    loss = CrossEntropy(task_of(student, ignore_index=params["ignore_index"]), **options)
    found = results(loss(student, None, inputs["labels"]), inputs)
    return found | {"num_kept": np.count_nonzero(np.abs(found["grad:logits"]).sum(1))}


def cirkd_kd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    return distil(inputs, 1.0, temperature=params["temperature"])


def aicsd_kd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    return distil(
        inputs,
        params["weight"],
        temperature=params["temperature"],
        reduction="pixel" if "sum over classes" in params["reduction"] else "element",
        temperature_squared=params["t_squared"],
    )


def tsic_kd(params: dict, inputs: Tensors, arrays: Arrays, ensemble: bool = False) -> Arrays:
    """TSIC's student from its teacher, or (ets) its teacher from the mean of both."""
    return distil(
        inputs,
        params["ratio"],
        align_corners=params["align_corners"],
        detach=params["teacher_detached"],
        swap=ensemble,
        temperature=params["temperature"],
        reduction="element",
        **({"guide": "mean"} if ensemble else {"size": "teacher"}),
    )


def logit_std(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    classes = inputs["student_logits"].shape[1]
    # the population's deviation is smaller by this factor, as if the temperature were; T^2 stays that of the case
    factor = (classes / (classes - 1)) ** 0.5 if params["std"] == "population" else 1.0
    return distil(
        inputs,
        params["weight"] * factor**2,
        detach=True,
        temperature=params["temperature"] / factor,
        standardize=True,
        eps=params["eps"] * factor,
    )


def distil(
    inputs: Tensors, weight: float, *, align_corners: bool = False, detach: bool = False, swap: bool = False, **options
) -> Arrays:
    """KL between the recorded scores, those of the teacher maybe detached; `swap`: the teacher learns."""
    student, teacher = both(inputs, "logits", align_corners)
    if detach:
        teacher.logits = teacher.logits.detach()
    pair = (teacher, student) if swap else (student, teacher)
    return results(weight * build(KL, task_of(*pair), **options)(*pair, None), inputs)


def fitnet(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    pair = both(inputs, "feature")
    loss = build(FitNet, task_of(*pair), feature="map")
    held = restore(loss, states(arrays), names={"projection": "conv"})
    return results(loss(*pair, None), inputs | held)


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
    "tsic_ets_kl": partial(tsic_kd, ensemble=True),
    "logit_std": logit_std,
    "fitnet": fitnet,
}

TOLERANCE = {
    # the recorded percentage went through float32
    "mmseg_ce": {"acc_seg": {"relative": 1e-6}},
}
