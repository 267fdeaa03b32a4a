"""Golden loss cases of the methods that CIRKD, AICSD and RMRKD compare with, and what CIRKD's own share with them."""

import re

import torch
from recorded.arrays import Arrays, Tensors, both, build, on_maps, plain, prediction, restore, results, states, task_of
from recorded.fill import fill_state

from segkd.losses._regions import labels_at
from segkd.losses.at import AT
from segkd.losses.cwd import CWD
from segkd.losses.dsd import DSD
from segkd.losses.holistic import Holistic, discriminator_loss, generator_loss
from segkd.losses.ifvd import IFVD
from segkd.losses.skd import SKD


def cwd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """RMRKD's over scores (`tau`), and CIRKD's over any maps, mapped to the teacher's channels where they differ."""
    if "tau" in params:
        pair = both(inputs, "logits")
        loss = build(CWD, task_of(*pair), temperature=params["tau"])
        return results(params["loss_weight"] * loss(*pair, None), inputs)
    pair = both(inputs, "")
    loss = build(CWD, task_of(*pair), feature="map", temperature=params["temperature"], divisor="student")
    held = restore(loss, states(arrays), names={"projection": "conv"})
    return results(loss(*pair, None), inputs | held)


def at(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    return on_maps(
        AT,
        inputs,
        params.get("weight", 1.0),
        power=float(params["power"] if "power" in params else params["p"]),
        norm="image" if "width" in params.get("normalize_axis", "height*width") else "column",
    )


def skd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    window, _ = map(int, re.search(r"max (\d+)x(\d+)", params["pool"]).groups())
    return on_maps(SKD, inputs, window=window)


def pairwise_of_shares(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    assert params["norm_eps"] == 1e-8, "the detached norm adds 1e-8"
    norm = "detached" if params["norm_detached"] else "unit"
    return on_maps(SKD, inputs, params["weight"], share=params["scale"], norm=norm)


def ifvd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """CIRKD's, and RMRKD's with its own labels and convolution."""
    released = "label_resize" in params
    pair = both(inputs, "" if released else "feature")
    target = inputs["labels"].squeeze(1) if released else inputs["target"]  # (B, 1, H, W) -> (B, H, W)
    how = "bilinear_trunc" if "bilinear" in params.get("label_resize", "nearest") else "nearest"
    task = task_of(*pair, num_classes=params["num_classes"], ignore_index=params["ignore_index"])
    loss = build(IFVD, task, feature="map", align=released, label_resize=how)
    held = restore(loss, states(arrays))
    value = params.get("loss_weight", 1.0) * loss(*pair, target)
    small = labels_at(target, pair[1].features["map"].shape[-2:], how)[:, None]
    return results(value, inputs | held, labels_small=small)


def dsd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    weights = params["grad_weights"]
    guesses = [inputs[name] for name in params["student_list"]]
    goals = [inputs[f"teacher_{level}"] for level in range(params["n_levels"])]
    # one network may pass a map twice here, which a recipe cannot
    task = task_of(prediction(head=guesses[-1]), prediction(head=goals[-1]))
    loss = build(DSD, task, psd=1.0, csd=1.0, temperature=params["csd_tau"])
    parts = loss.of_levels(guesses, goals)
    computed = results(sum(weights[name] * part for name, part in parts.items()), inputs, **parts)
    for name in params["student_list"]:
        # the original loses the gradient of a map passed twice to rounding (see DSD): nothing to compare with
        if params["student_list"].count(name) > 1:
            computed[f"grad:{name}"] = None
    return computed


def objective(params: dict) -> str:
    return "hinge" if params["adv_type"] == "hinge" else "wasserstein"


def adv_criterion(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student, teacher = leaves = list(inputs.values())
    generator = generator_loss(student)
    discriminator = discriminator_loss(student, teacher, objective(params))
    found = {"loss_generator": generator, "loss_discriminator": discriminator}
    (found["grad_generator:d_student"],) = torch.autograd.grad(generator, student)
    for name, gradient in zip(("d_student", "d_teacher"), torch.autograd.grad(discriminator, leaves), strict=True):
        found[f"grad_discriminator:{name}"] = gradient
    return plain(found)


def adv_generator(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    return results(params["loss_weight"] * generator_loss(inputs["d_student"]), inputs)


def adv_discriminator(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    loss = discriminator_loss(inputs["d_student"], inputs["d_teacher"], objective(params))
    return results(params["loss_weight"] * loss, inputs)


# the discriminator's names -> the original's
DISCRIMINATOR = {"norm": "preprocess_additional", "last": "last.0"}
for index in range(4):
    theirs = f"l{index + 1}.0.module"
    DISCRIMINATOR |= {f"convs.{index}": theirs, f"convs.{index}.weight": f"{theirs}.weight_bar"}
    DISCRIMINATOR |= {f"convs.{index}.{vector}": f"{theirs}.weight_{vector}" for vector in "uv"}
    DISCRIMINATOR[f"attentions.{index}"] = f"attn{index + 1}"
    for role in ("query", "key", "value"):
        DISCRIMINATOR[f"attentions.{index}.{role}"] = f"attn{index + 1}.{role}_conv"


def adversarial(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student, teacher = both(inputs, "logits")
    loss = build(Holistic, task_of(student, teacher), objective=objective(params), adversary_weight=1.0)
    state = fill_state(params)
    held = restore(loss.adversary, state, names=DISCRIMINATOR)
    assert held.keys() == state.keys(), "the discriminators have different entries"
    scores = []
    loss.adversary.register_forward_hook(lambda module, given, score: scores.append(score))
    generator = loss(student, teacher, None)
    (of_student,) = torch.autograd.grad(generator, student.logits)
    discriminator = loss.adversary_loss(student, teacher)
    weights = {name: weight for name, weight in held.items() if weight.requires_grad}
    gradients = torch.autograd.grad(discriminator, list(weights.values()))
    found = {
        "loss_generator": generator,
        "loss_discriminator": discriminator,
        **dict(zip(("d_out_generator_pass", "d_out_student", "d_out_teacher"), scores, strict=True)),
        "grad_generator:student_logits[:,:,::4,::4]": of_student[:, :, ::4, ::4],
    }
    found |= {f"grad_discriminator:{name}": x for name, x in zip(weights, gradients, strict=True)}
    return plain(found | {f"state_after:{name}": x for name, x in held.items()})


RUNNERS = {
    "cwd": cwd,
    "at": at,
    "at_code": at,
    "at_paper": at,
    "skd": skd,
    "pa_code": pairwise_of_shares,
    "ifvd": ifvd,
    "ifvd_rmrkd": ifvd,
    "dsd": dsd,
    "adv_criterion": adv_criterion,
    "adv_generator": adv_generator,
    "adv_discriminator": adv_discriminator,
    "adversarial": adversarial,
}

TOLERANCE = {
    # the original's class masks are float32
    "ifvd_rmrkd": {"relative": 1e-6},
}
