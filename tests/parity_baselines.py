"""Golden loss cases of the methods that CIRKD, AICSD and RMRKD compare with, and what CIRKD's own share with them."""

import re
import zlib

import numpy as np
import torch
from parity_losses import NEAR, Arrays, build, prediction, results, task_for, tensors
from torch import Tensor, nn

from segkd.losses._regions import labels_at
from segkd.losses._task import Task
from segkd.losses.at import AT
from segkd.losses.cwd import CWD
from segkd.losses.dsd import DSD
from segkd.losses.holistic import Holistic, discriminator_loss, generator_loss
from segkd.losses.ifvd import IFVD
from segkd.losses.skd import SKD


def head_task(student: Tensor, teacher: Tensor, num_classes: int = 2, ignore_index: int = 255) -> Task:
    """A task whose two networks have one feature, `head`, as wide as these maps."""
    return task_for(num_classes, ignore_index, {"head": student.shape[1]}, {"head": teacher.shape[1]})


def states(arrays: Arrays) -> dict[str, Tensor]:
    return {key.removeprefix("state:"): torch.from_numpy(x) for key, x in arrays.items() if key.startswith("state:")}


def restore(
    module: nn.Module, state: dict[str, Tensor], prefix: str = "", renamed: dict[str, str] | None = None
) -> None:
    """Loads the recorded entries under a prefix strictly; `renamed` maps our first name to the original's."""
    found = {}
    for key in module.state_dict():
        if not key.endswith("_extra_state"):
            found[key] = state[prefix + original_key(key, renamed)]
    missing, unexpected = module.load_state_dict(found, strict=False)
    assert not unexpected and all(key.endswith("_extra_state") for key in missing)


def original_key(key: str, renamed: dict[str, str] | None) -> str:
    first, _, rest = key.partition(".")
    return f"{(renamed or {}).get(first, first)}.{rest}"


def parameters(module: nn.Module, prefix: str = "", renamed: dict[str, str] | None = None) -> dict[str, Tensor]:
    """A module's parameters under the original's names."""
    return {prefix + original_key(key, renamed): parameter for key, parameter in module.named_parameters()}


def on_heads(kind: type[nn.Module], inputs: dict[str, Tensor], weight: float = 1.0, **options) -> Arrays:
    """A loss without weights of its own, between two recorded features."""
    student, teacher = inputs["student_feature"], inputs["teacher_feature"]
    loss = build(kind, head_task(student, teacher), **options)
    return results(weight * loss(prediction(head=student), prediction(head=teacher), None), inputs)


def plain(arrays: dict[str, Tensor]) -> Arrays:
    return {key: x.detach().numpy() for key, x in arrays.items()}


def cwd(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    if "tau" in params:
        loss = build(CWD, task_for(inputs["student_logits"].shape[1], 255), temperature=params["tau"])
        guess, goal = prediction(inputs["student_logits"]), prediction(inputs["teacher_logits"])
        return results(params["loss_weight"] * loss(guess, goal, None), inputs)
    task = head_task(inputs["student"], inputs["teacher"])
    loss = build(CWD, task, feature="head", temperature=params["temperature"], divisor="student")
    leaves = dict(inputs)
    if params["uses_align_conv"]:
        loss.load_state_dict({"projection.weight": states(arrays)["conv.weight"]})
        leaves["conv.weight"] = loss.projection.weight
    return results(loss(prediction(head=inputs["student"]), prediction(head=inputs["teacher"]), None), leaves)


def at(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    axis = params.get("normalize_axis", "height*width")
    return on_heads(
        AT,
        tensors(arrays),
        params.get("weight", 1.0),
        power=float(params["power"] if "power" in params else params["p"]),
        norm="image" if "width" in axis else "column",
    )


def skd(case: dict, arrays: Arrays) -> Arrays:
    window, _ = map(int, re.search(r"max (\d+)x(\d+)", case["params"]["pool"]).groups())
    return on_heads(SKD, tensors(arrays), window=window)


def pairwise_of_shares(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    assert params["norm_eps"] == 1e-8, "the detached norm adds 1e-8"
    norm = "detached" if params["norm_detached"] else "unit"
    return on_heads(SKD, tensors(arrays), params["weight"], share=params["scale"], norm=norm)


def ifvd(case: dict, arrays: Arrays) -> Arrays:
    """CIRKD's, and RMRKD's with its own labels and convolution."""
    params, inputs = case["params"], tensors(arrays)
    released = "label_resize" in params
    names = ("student", "teacher") if released else ("student_feature", "teacher_feature")
    student, teacher = (inputs[name] for name in names)
    task = head_task(student, teacher, params["num_classes"], params["ignore_index"])
    how = "bilinear_trunc" if "bilinear" in params.get("label_resize", "nearest") else "nearest"
    target = inputs["labels"].squeeze(1) if released else inputs["target"]  # (B, 1, H, W) -> (B, H, W)
    loss = build(IFVD, task, align=released, label_resize=how)
    leaves = dict(inputs)
    if loss.align is not None:
        restore(loss, states(arrays))
        leaves |= parameters(loss)
    value = loss(prediction(head=student), prediction(head=teacher), target)
    small = labels_at(target, teacher.shape[-2:], how)[:, None]
    return results(params.get("loss_weight", 1.0) * value, leaves, labels_small=small)


def dsd(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    weights = params["grad_weights"]
    guesses = [inputs[name] for name in params["student_list"]]
    goals = [inputs[f"teacher_{level}"] for level in range(params["n_levels"])]
    # one network may pass a map twice here, which a recipe cannot
    loss = build(DSD, head_task(guesses[-1], goals[-1]), psd=1.0, csd=1.0, temperature=params["csd_tau"])
    parts = loss.of_levels(guesses, goals)
    computed = results(sum(weights[name] * part for name, part in parts.items()), inputs, **parts)
    for name in params["student_list"]:
        # the original loses the gradient of a map passed twice to rounding (see DSD): nothing to compare with
        if params["student_list"].count(name) > 1:
            computed[f"grad:{name}"] = None
    return computed


def objective(params: dict) -> str:
    return "hinge" if params["adv_type"] == "hinge" else "wasserstein"


def adv_criterion(case: dict, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    student, teacher = inputs["d_student"], inputs["d_teacher"]
    generator = generator_loss(student)
    discriminator = discriminator_loss(student, teacher, objective(case["params"]))
    (of_generator,) = torch.autograd.grad(generator, student)
    of_student, of_teacher = torch.autograd.grad(discriminator, (student, teacher))
    return plain(
        {
            "loss_generator": generator,
            "grad_generator:d_student": of_generator,
            "loss_discriminator": discriminator,
            "grad_discriminator:d_student": of_student,
            "grad_discriminator:d_teacher": of_teacher,
        }
    )


def adv_generator(case: dict, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    return results(case["params"]["loss_weight"] * generator_loss(inputs["d_student"]), inputs)


def adv_discriminator(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    loss = discriminator_loss(inputs["d_student"], inputs["d_teacher"], objective(params))
    return results(params["loss_weight"] * loss, inputs)


def filled(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight a recording names by key and shape: random from the key's checksum, of a size by its kind."""
    random = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
        values = random.uniform(0.5, 1.5, shape)
    else:
        scale = 0.1 if len(shape) <= 1 else np.sqrt(2.0 / np.prod(shape[1:], dtype=int))
        values = scale * random.standard_normal(shape)
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).double()


def discriminator_key(key: str) -> str:
    """The original's name of an entry of our discriminator."""
    owner, *rest = key.split(".")
    if owner == "convs":
        suffix = {"weight": "weight_bar", "u": "weight_u", "v": "weight_v"}.get(rest[1], rest[1])
        return f"l{int(rest[0]) + 1}.0.module.{suffix}"
    if owner == "attentions":
        names = {"query": "query_conv", "key": "key_conv", "value": "value_conv"}
        return ".".join([f"attn{int(rest[0]) + 1}", names.get(rest[1], rest[1]), *rest[2:]])
    return ".".join([{"norm": "preprocess_additional", "last": "last.0"}[owner], *rest])


def adversarial(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    student, teacher = inputs["student_logits"], inputs["teacher_logits"]
    options = {"objective": objective(params), "adversary_weight": 1.0}
    loss = build(Holistic, task_for(params["num_classes"], 255), **options)
    shapes = {key: tuple(shape) for key, shape in params["entries"]}
    own = {key: discriminator_key(key) for key in loss.adversary.state_dict()}
    assert set(own.values()) == set(shapes), "the discriminators have different entries"
    loss.adversary.load_state_dict({key: filled(name, shapes[name]) for key, name in own.items()})
    scores = []
    loss.adversary.register_forward_hook(lambda module, given, score: scores.append(score))
    generator = loss(prediction(student), prediction(teacher), None)
    (of_student,) = torch.autograd.grad(generator, student)
    discriminator = loss.adversary_loss(prediction(student), prediction(teacher))
    weights = {own[key]: parameter for key, parameter in loss.adversary.named_parameters()}
    gradients = torch.autograd.grad(discriminator, list(weights.values()))
    found = {
        "loss_generator": generator,
        "loss_discriminator": discriminator,
        **dict(zip(("d_out_generator_pass", "d_out_student", "d_out_teacher"), scores, strict=True)),
        "grad_generator:student_logits[:,:,::4,::4]": of_student[:, :, ::4, ::4],
    }
    found |= {f"grad_discriminator:{name}": x for name, x in zip(weights, gradients, strict=True)}
    found |= {f"state_after:{own[key]}": x for key, x in loss.adversary.state_dict().items()}
    return plain(found)


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

TOLERANCE = {loss: NEAR for loss in RUNNERS} | {
    # the original's class masks are float32
    "ifvd_rmrkd": {"relative": 1e-6},
}
