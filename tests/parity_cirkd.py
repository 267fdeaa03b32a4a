"""Golden loss cases of CIRKD's own terms."""

import re

import torch
from parity_baselines import head_task, on_heads, parameters, restore, states
from parity_losses import NEAR, Arrays, build, prediction, results, tensors
from parity_recorded import RECIPES, Recorded, graph_of, losses_of, recipe_of
from torch import Tensor, nn

from segkd.losses._gcn import GCN
from segkd.losses.cirkd_channel import CIRKDChannel
from segkd.losses.cirkd_memory import CIRKDMemory
from segkd.losses.cirkd_minibatch import CIRKDMinibatch
from segkd.runner.building.graph import weighted


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


CIRKD_V2 = RECIPES / "cityscapes" / "cirkdv2_dv3r101_dv3r18.yaml"
# its labels -> the originals' names of the terms
TERMS = {"cross_entropy": "task", "kl": "kd"}


def cirkdv2_objective(case: dict, arrays: Arrays) -> Arrays:
    """CIRKDv2 as its recipe for Cityscapes lists it."""
    params, inputs, state = case["params"], tensors(arrays), states(arrays)
    weights = dict(params["lambdas"])
    kd, channel_mse = weights.pop("kd"), weights.pop("channel_kd")
    use_gcn = params["use_gcn"] and weights["fitnet"] != 0
    # gather: of one process, it only silences the warning for a single image
    options = {"gcn": use_gcn, "channel_mse": channel_mse, "gather": True} | weights
    options |= memory_options(params) | channel_options(params)
    overrides = {f"losses.cirkd_v2.args.{name}": value for name, value in options.items()}
    overrides |= {"losses.cross_entropy.args.aux_weight": params["aux_weight"]}
    overrides |= {"losses.kl.weight": kd, "losses.kl.args.temperature": params["kd_temperature"]}
    networks = {}
    for owner in ("student", "teacher"):
        kinds = {"logits": f"{owner}_logits", "head": f"{owner}_feature", "aux": f"{owner}_aux"}
        maps = {kind: inputs[name] for kind, name in kinds.items() if name in inputs}
        networks[owner] = Recorded({"labelled": maps}, align_corners=True)
    graph = graph_of(recipe_of(CIRKD_V2, overrides), networks, params["ignore_index"])
    loss, leaves = graph.losses["cirkd_v2"], dict(inputs)
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
    terms = weighted(losses_of(graph, inputs["target"]), graph.weights_at(0))
    named = {f"term:{TERMS.get(label, label.removeprefix('cirkd_v2/'))}": term for label, term in terms.items()}
    return results(sum(terms.values()), leaves, **named)


RUNNERS = {
    "cirkd_minibatch": cirkd_minibatch,
    "cirkd_memory": cirkd_memory,
    "cirkd_channel": cirkd_channel,
    "gcn": gcn,
    "cirkdv2_objective": cirkdv2_objective,
}

TOLERANCE = {loss: NEAR for loss in RUNNERS}
