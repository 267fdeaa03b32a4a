"""Golden loss cases of CIRKD and the baselines it compares with, and of the same losses in AICSD and RMRKD."""

import re
import zlib

import numpy as np
import torch
from parity_losses import NEAR, Arrays, build, prediction, results, task_for, tensors
from torch import Tensor, nn

from segkd.losses._discriminator import Discriminator
from segkd.losses._gcn import GCN
from segkd.losses._regions import labels_at
from segkd.losses.at import AT
from segkd.losses.cirkd_channel import CIRKDChannel
from segkd.losses.cirkd_memory import CIRKDMemory
from segkd.losses.cirkd_minibatch import CIRKDMinibatch
from segkd.losses.cirkd_v2 import CIRKDv2
from segkd.losses.cross_entropy import CrossEntropy
from segkd.losses.cwd import CWD
from segkd.losses.dsd import DSD
from segkd.losses.holistic import Holistic, discriminator_loss, generator_loss
from segkd.losses.ifvd import IFVD
from segkd.losses.kl import KL
from segkd.losses.skd import SKD


def head_task(student: Tensor, teacher: Tensor, num_classes: int = 2, ignore_index: int = 255):
    """A task whose two networks have one feature, `head`, as wide as these maps."""
    return task_for(num_classes, ignore_index, {"head": student.shape[1]}, {"head": teacher.shape[1]})


def states(arrays: Arrays) -> dict[str, Tensor]:
    return {key.removeprefix("state:"): torch.from_numpy(x) for key, x in arrays.items() if key.startswith("state:")}


def restore(module: nn.Module, state: dict[str, Tensor], prefix: str = "", renamed: dict[str, str] | None = None) -> None:
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


def on_heads(kind: type[nn.Module], inputs: dict[str, Tensor], weight: float = 1.0, **options) -> Arrays:
    """A loss without weights of its own, between two recorded features."""
    student, teacher = inputs["student_feature"], inputs["teacher_feature"]
    loss = build(kind, head_task(student, teacher), **options)
    return results(weight * loss(prediction(head=student), prediction(head=teacher), None), inputs)


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
        # the original loses the gradient of a map passed twice to rounding (see DSD); not imitated, only stated
        if params["student_list"].count(name) > 1:
            computed[f"grad:{name}"] = np.zeros_like(computed[f"grad:{name}"])
    return computed


def cirkd_minibatch(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    return on_heads(
        CIRKDMinibatch,
        tensors(arrays),
        temperature=params["temperature"],
        pool=int(re.search(r"avg (\d+)x", params["pool"]).group(1)),
        pool_from=tuple(params["pool_if_at_least"]),
        gather=True,  # of one process: only silences the warning for a single image
    )


def memory_options(params: dict) -> dict:
    return {
        "temperature": params["contrast_kd_temperature"],
        "contrast_temperature": params["contrast_temperature"],
        "pixel_memory": params["pixel_memory_size"],
        "region_memory": params["region_memory_size"],
        "enqueue": params["enqueue"],
    }


def channel_options(params: dict) -> dict:
    return {
        "temperature": params["contrast_kd_temperature"],
        "contrast_temperature": params["contrast_temperature"],
        "channel_memory": params["channel_memory_size"],
        "channel_contrast": params["channel_contrast_size"],
    }


# our names of the memories -> the originals' names of vectors and pointers
QUEUES = {"pixel": "pixel_queue", "region": "segment_queue"}


def set_memory(
    loss: CIRKDMemory, params: dict, arrays: Arrays, state: dict[str, Tensor], prefix: str, drawn: str
) -> None:
    """The recorded vectors, pointers and draws in place of random ones."""
    for name, memory in loss.memories.items():
        queue = QUEUES[name]
        # recorded per class, where ours is the sum that the original's options give
        loss.contrast[name] = params[f"{name}_contrast_size"]
        memory.vectors = state[f"{prefix}teacher_{queue}"].clone()
        memory.pointers = state[f"{prefix}{queue}_ptr"].tolist()
        slots = torch.from_numpy(arrays[f"draw:{drawn}{name}_index"])
        memory.draw = lambda slots=slots: slots
    loss.draw = lambda image, label, count: torch.from_numpy(arrays[f"draw:{drawn}enqueue_b{image}_c{label}"])
    restore(loss.head, state, f"{prefix}project_head.")


def set_channel(loss: CIRKDChannel, arrays: Arrays, state: dict[str, Tensor], prefix: str, drawn: str) -> None:
    memory = loss.memory
    memory.vectors = state[f"{prefix}teacher_channel_queue"][None].clone()  # (1, S, N)
    memory.pointers = state[f"{prefix}channel_queue_ptr"].tolist()
    slots = torch.from_numpy(arrays["draw:channel_index"])
    memory.draw = lambda: slots
    loss.draw = lambda count: torch.from_numpy(arrays[f"draw:{drawn}enqueue"])
    restore(loss.head, state, f"{prefix}project_head.")


def after(head: nn.Module) -> dict[str, Tensor]:
    return {f"state_after:project_head.1.{name}": getattr(head[1], name) for name in ("running_mean", "running_var")}


def cirkd_memory(case: dict, arrays: Arrays) -> Arrays:
    params, inputs, state = case["params"], tensors(arrays), states(arrays)
    student, teacher = inputs["student_feature"], inputs["teacher_feature"]
    task = head_task(student, teacher, params["num_classes"], params["ignore_label"])
    more = {"pixels_per_class": params["pixel_update_freq"]}
    loss = build(CIRKDMemory, task, pixel=1.0, region=1.0, **memory_options(params), **more)
    set_memory(loss, params, arrays, state, "", "")
    parts = loss(prediction(head=student), prediction(head=teacher), inputs["target"])
    others = {f"loss_{name}": part for name, part in parts.items()} | after(loss.head)
    for name, queue in QUEUES.items():
        others[f"state_after:teacher_{queue}"] = loss.memories[name].vectors
        others[f"state_after:{queue}_ptr"] = torch.tensor(loss.memories[name].pointers)
    total = sum(params["grad_weights"][name] * part for name, part in parts.items())
    return results(total, {**inputs, **parameters(loss.head, "project_head.")}, **others)


def cirkd_channel(case: dict, arrays: Arrays) -> Arrays:
    params, inputs, state = case["params"], tensors(arrays), states(arrays)
    student, teacher = inputs["student_feature"], inputs["teacher_feature"]
    more = {
        "channels_per_batch": params["channel_update_freq"],
        "pool": int(re.search(r"avg (\d+)x", params["pool"]).group(1)),
    }
    ones = {"minibatch": 1.0, "memory": 1.0, "mse": 1.0}
    loss = build(CIRKDChannel, head_task(student, teacher), **ones, **channel_options(params), **more)
    set_channel(loss, arrays, state, "", "")
    parts = loss(prediction(head=student), prediction(head=teacher), None)
    others = {f"loss_{name}": part for name, part in parts.items()} | after(loss.head)
    others["state_after:teacher_channel_queue"] = loss.memory.vectors[0]
    others["state_after:channel_queue_ptr"] = torch.tensor(loss.memory.pointers)
    total = sum(params["grad_weights"][name] * part for name, part in parts.items())
    return results(total, {**inputs, **parameters(loss.head, "project_head.")}, **others)


GCN_NAMES = {"query": "node_q", "key": "node_k", "value": "node_v", "context": "conv1", "output": "out_conv"}


def gcn(case: dict, arrays: Arrays) -> Arrays:
    feature, weight = (torch.from_numpy(arrays[f"input:{name}"]) for name in ("feature", "grad_output"))
    feature.requires_grad_(True)
    adapter = build(GCN, case["params"]["plane"])
    restore(adapter, states(arrays), renamed=GCN_NAMES)
    output = adapter(feature)
    leaves = {"feature": feature, **parameters(adapter, renamed=GCN_NAMES)}
    return results((output * weight).sum(), leaves, output=output)


def cirkdv2_objective(case: dict, arrays: Arrays) -> Arrays:
    params, inputs, state = case["params"], tensors(arrays), states(arrays)
    weights = dict(params["lambdas"])
    kd, channel_mse = weights.pop("kd"), weights.pop("channel_kd")
    student, teacher = inputs["student_feature"], inputs["teacher_feature"]
    task = head_task(student, teacher, params["num_classes"], params["ignore_index"])
    options = memory_options(params) | channel_options(params)
    use_gcn = params["use_gcn"] and weights["fitnet"] != 0
    loss = build(CIRKDv2, task, gcn=use_gcn, channel_mse=channel_mse, gather=True, **weights, **options)
    leaves = dict(inputs)
    if loss.memory is not None:
        set_memory(loss.memory, params, arrays, state, "memory.", "memory_")
        leaves |= parameters(loss.memory.head, "memory.project_head.")
    if loss.channel is not None:
        set_channel(loss.channel, arrays, state, "channel.", "channel_")
        leaves |= parameters(loss.channel.head, "channel.project_head.")
    if loss.fitnet is not None:
        loss.fitnet.load_state_dict({"projection.weight": state["fitnet.conv.weight"]})
        leaves["fitnet.conv.weight"] = loss.fitnet.projection.weight
    if loss.gcn is not None:
        restore(loss.gcn, state, "gcn.", GCN_NAMES)
        leaves |= parameters(loss.gcn, "gcn.", GCN_NAMES)
    guess = prediction(inputs["student_logits"], True, head=student)
    guess.aux = inputs.get("student_aux")
    goal = prediction(inputs["teacher_logits"], True, head=teacher)
    terms = {
        "task": build(CrossEntropy, task, aux_weight=params["aux_weight"])(guess, None, inputs["target"]),
        "kd": kd * build(KL, task, temperature=params["kd_temperature"])(guess, goal, None),
        **loss(guess, goal, inputs["target"]),
    }
    return results(sum(terms.values()), leaves, **{f"term:{name}": term for name, term in terms.items()})


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
    """The weight a recording names by key and shape: drawn from the key's checksum, scaled by what kind of entry it is."""
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
    "cirkd_minibatch": cirkd_minibatch,
    "cirkd_memory": cirkd_memory,
    "cirkd_channel": cirkd_channel,
    "gcn": gcn,
    "cirkdv2_objective": cirkdv2_objective,
    "adv_criterion": adv_criterion,
    "adv_generator": adv_generator,
    "adv_discriminator": adv_discriminator,
    "adversarial": adversarial,
}

TOLERANCE = {loss: NEAR for loss in RUNNERS} | {
    # the original's class masks are float32
    "ifvd_rmrkd": {"relative": 1e-6},
}
