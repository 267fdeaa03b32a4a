"""Golden loss cases of CIRKD's own terms."""

import re

import torch
from recorded.arrays import Arrays, Tensors, both, build, named, on_maps, restore, results, states, task_of
from recorded.recipes import RECIPES, graph_of, losses_of, pair_of, recipe_of
from torch import Tensor

from segkd.losses._gcn import GCN
from segkd.losses.cirkd_channel import CIRKDChannel
from segkd.losses.cirkd_memory import CIRKDMemory
from segkd.losses.cirkd_minibatch import CIRKDMinibatch
from segkd.runner.building.graph import weighted


def pooled(params: dict) -> int:
    return int(re.search(r"avg (\d+)x", params["pool"]).group(1))


def cirkd_minibatch(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    # gather: of one process, it only silences the warning for a single image
    options = {"temperature": params["temperature"], "pool": pooled(params), "gather": True}
    return on_maps(CIRKDMinibatch, inputs, pool_from=tuple(params["pool_if_at_least"]), **options)


# our names of the memories -> the originals' names of vectors and pointers
QUEUES = {"pixel": "pixel_queue", "region": "segment_queue", "channel": "channel_queue"}
# our arguments -> the recorded ones
OPTIONS = {"temperature": "contrast_kd_temperature", "contrast_temperature": "contrast_temperature"}
MEMORY = OPTIONS | {"pixel_memory": "pixel_memory_size", "region_memory": "region_memory_size", "enqueue": "enqueue"}
CHANNEL = OPTIONS | {"channel_memory": "channel_memory_size", "channel_contrast": "channel_contrast_size"}


def renamed(params: dict, names: dict[str, str]) -> dict:
    return {ours: params[theirs] for ours, theirs in names.items()}


def memories_of(loss: CIRKDMemory | CIRKDChannel) -> dict:
    return loss.memories if isinstance(loss, CIRKDMemory) else {"channel": loss.memory}


def set_memories(
    loss: CIRKDMemory | CIRKDChannel, params: dict, arrays: Arrays, prefix: str = "", drawn: str = ""
) -> dict[str, Tensor]:
    """The recorded vectors, pointers and draws in place of random ones; the projection under its recorded names."""
    state, draws = states(arrays), named(arrays, "draw")
    for name, memory in memories_of(loss).items():
        queue, index = QUEUES[name], f"{drawn}{name}_index"
        vectors = state[f"{prefix}teacher_{queue}"].clone()
        memory.vectors = vectors[None] if name == "channel" else vectors  # (classes, or 1, S, N)
        memory.pointers = state[f"{prefix}{queue}_ptr"].tolist()
        memory.draw = lambda slots=draws[index if index in draws else f"{name}_index"]: slots
    if isinstance(loss, CIRKDMemory):
        # recorded per class, where ours is the sum that the original's options give
        loss.contrast.update({name: params[f"{name}_contrast_size"] for name in loss.memories})
        loss.draw = lambda image, label, count: draws[f"{drawn}enqueue_b{image}_c{label}"]
    else:
        loss.draw = lambda count: draws[f"{drawn}enqueue"]
    return restore(loss.head, state, f"{prefix}project_head.")


def contrast(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """Terms with a memory: their values, what they train, and what is remembered afterwards."""
    pair, ones = both(inputs, "feature"), dict.fromkeys(params["grad_weights"], 1.0)
    if "pixel_update_freq" in params:
        task = task_of(*pair, num_classes=params["num_classes"], ignore_index=params["ignore_label"])
        options = renamed(params, MEMORY) | {"pixels_per_class": params["pixel_update_freq"]}
        loss = build(CIRKDMemory, task, feature="map", **ones, **options)
    else:
        options = renamed(params, CHANNEL) | {"channels_per_batch": params["channel_update_freq"]}
        loss = build(CIRKDChannel, task_of(*pair), feature="map", pool=pooled(params), **ones, **options)
    held = set_memories(loss, params, arrays)
    parts = loss(*pair, inputs.get("target"))
    others = {f"loss_{name}": part for name, part in parts.items()}
    others |= {f"state_after:{name}": x for name, x in held.items() if "running" in name}
    for name, memory in memories_of(loss).items():
        queue = QUEUES[name]
        others[f"state_after:teacher_{queue}"] = memory.vectors.view(arrays[f"state:teacher_{queue}"].shape)
        others[f"state_after:{queue}_ptr"] = torch.tensor(memory.pointers)
    total = sum(params["grad_weights"][name] * part for name, part in parts.items())
    return results(total, inputs | held, **others)


GCN_NAMES = {"query": "node_q", "key": "node_k", "value": "node_v", "context": "conv1", "output": "out_conv"}


def gcn(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    feature = inputs["feature"]
    adapter = build(GCN, params["plane"])
    held = restore(adapter, states(arrays), names=GCN_NAMES)
    output = adapter(feature)
    return results((output * inputs["grad_output"]).sum(), {"feature": feature, **held}, output=output)


CIRKD_V2 = RECIPES / "cityscapes" / "cirkdv2_dv3r101_dv3r18.yaml"
# its labels -> the originals' names of the terms
TERMS = {"cross_entropy": "task", "kl": "kd"}


def cirkdv2_objective(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """CIRKDv2 as its recipe for Cityscapes lists it."""
    state = states(arrays)
    weights = dict(params["lambdas"])
    kd, channel_mse = weights.pop("kd"), weights.pop("channel_kd")
    use_gcn = params["use_gcn"] and weights["fitnet"] != 0
    options = {"gcn": use_gcn, "channel_mse": channel_mse, "gather": True} | weights
    options |= renamed(params, MEMORY | CHANNEL)
    overrides = {f"losses.cirkd_v2.args.{name}": value for name, value in options.items()}
    overrides |= {"losses.cross_entropy.args.aux_weight": params["aux_weight"]}
    overrides |= {"losses.kl.weight": kd, "losses.kl.args.temperature": params["kd_temperature"]}
    graph = graph_of(recipe_of(CIRKD_V2, overrides), pair_of(inputs, "head"), params["ignore_index"])
    loss, leaves = graph.losses["cirkd_v2"], dict(inputs)
    if loss.memory is not None:
        leaves |= set_memories(loss.memory, params, arrays, "memory.", "memory_")
    if loss.channel is not None:
        leaves |= set_memories(loss.channel, params, arrays, "channel.", "channel_")
    if loss.fitnet is not None:
        leaves |= restore(loss.fitnet, state, "fitnet.", {"projection": "conv"})
    if loss.gcn is not None:
        leaves |= restore(loss.gcn, state, "gcn.", GCN_NAMES)
    terms = weighted(losses_of(graph, inputs["target"]), graph.weights_at(0))
    named_terms = {f"term:{TERMS.get(label, label.removeprefix('cirkd_v2/'))}": term for label, term in terms.items()}
    return results(sum(terms.values()), leaves, **named_terms)


RUNNERS = {
    "cirkd_minibatch": cirkd_minibatch,
    "cirkd_memory": contrast,
    "cirkd_channel": contrast,
    "gcn": gcn,
    "cirkdv2_objective": cirkdv2_objective,
}
