"""Golden cases of TSIC: its modules, the term only it has, and its whole objective, run as a recipe's graph."""

import re

import numpy as np
from recorded.arrays import EPSILON, Arrays, Tensors, both, build, named, plain, restore, results, states, task_of
from recorded.recipes import RECIPES, Recorded, objective_of, recipe_of
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn

from segkd.losses.channel_mean import ChannelMean
from segkd.models._lora import LoRAQKV
from segkd.models._mask_prompt import PromptAttention, embed_mask, mask_prompt
from segkd.models._prediction import Prediction
from segkd.models._sam import relative_positions, resize_pos_embed, resize_rel_pos
from segkd.runner.building.graph import Graph
from segkd.runner.recipe.schema import Recipe

TSIC = RECIPES / "cityscapes" / "tsic_samvitb_dv3r18_released.yaml"


def lora(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    state = states(arrays)
    assert params["scaling"] == 1 and params["dropout"] == 0, "the update has neither factor nor dropout"
    outputs, width = state["qkv.weight"].shape
    base = nn.Linear(width, outputs, bias="qkv.bias" in state)
    targets = tuple(third for third in "qkv" if f"linear_a_{third}.weight" in state)
    layer = LoRAQKV(base, params["rank"], targets).double()
    held = restore(layer, state)
    return with_cotangent(layer(inputs["tokens"]), arrays, inputs | held)


def with_cotangent(output: Tensor, arrays: Arrays, leaves: dict[str, Tensor], **others: Tensor) -> Arrays:
    """The output and the gradients of its product with the recorded draw."""
    loss = (output * named(arrays, "draw")["cotangent"]).sum()
    return results(loss, leaves, output=output, **others)


def prompt_attention(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    layer = PromptAttention(inputs["features"].shape[1]).double().eval()
    held = restore(layer, states(arrays))
    output = layer(inputs["features"], inputs["prompt_masks"])
    energy = layer.energy(inputs["features"], inputs["prompt_masks"])
    return with_cotangent(output, arrays, inputs | held, energy=energy)


def pos_embed(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    table = inputs["pos_embed"]
    stages = {"one_stage": table, "two_stage": resize_pos_embed(table, params["model_grid"])}
    return plain({name: resize_pos_embed(start, params["target_grid"]) for name, start in stages.items()})


def rel_pos(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    table = inputs["rel_pos"]
    stages = {"one_stage": table, "two_stage": resize_rel_pos(table, params["model_grid"])}
    return plain({name: relative_positions(start, params["tokens"]) for name, start in stages.items()})


def mask_embedding(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    params, state = params, states(arrays)
    width, hidden = state["mask_downscaling.6.weight"].shape[:2]
    encoder = PromptEncoder(width, (1, 1), (16, 16), hidden)  # sizes that only points, boxes and its own grid read
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert not unexpected and all("embed" in key for key in missing), "only embeddings of points may be missing"
    mask = mask_prompt(Prediction(inputs["student_logits"], params["align_corners"]), params["image_size"])
    sparse, dense, positions = embed_mask(encoder, mask, params["dense_grid"])
    kept = re.search(r"every (\d+)", params["channels_kept"])
    step = int(kept[1]) if kept else 1
    return {
        "mask": mask.squeeze(1).long().numpy(),  # (B, 1, H, W) -> (B, H, W)
        "dense_embedding": dense[:, ::step].detach().numpy(),
        "dense_pe": positions[:, ::step].numpy(),
        "sparse_shape": np.array(sparse.shape),
    }


def channel_mean(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student, teacher = both(inputs, "feature", params["align_corners"])
    if params["teacher_detached"]:
        teacher.features["map"] = teacher.features["map"].detach()
    loss = build(ChannelMean, task_of(student, teacher), feature="map")
    return results(params["ratio"] * loss(student, teacher, None), inputs)


def recipe_for(params: dict, pixels: int) -> Recipe:
    """TSIC's recipe for Cityscapes with the recorded parameters, for labels of so many pixels."""
    # the original's pixel count has the smallest float32 step added
    counted = pixels / (pixels + EPSILON)
    overrides = {"losses.student_ce.args.aux_weight": params["aux_weight"]}
    for label in ("student_ce", "teacher_ce"):
        overrides[f"losses.{label}.weight"] = counted
        overrides[f"losses.{label}.args.ohem_min_kept"] = params["ohem_min_kept_per_image"]
        overrides[f"losses.{label}.args.ohem_threshold"] = params["ohem_thresh"]
    for label in ("ts_kl", "ets_kl", "ts_mse"):
        overrides[f"losses.{label}.weight"] = params[f"{label}_ratio"]
    for label in ("ts_kl", "ets_kl"):
        overrides[f"losses.{label}.args.temperature"] = params["temperature"]
    for label in ("teacher_ce", "ts_kl", "ets_kl", "ts_mse"):
        overrides[f"losses.{label}.after"] = params["teacher_starts_after_iteration"]
    return recipe_of(TSIC, overrides)


def recorded_terms(graph: Graph, terms: dict[str, Tensor], labels: Tensor, iteration: int) -> dict[str, Tensor]:
    """The weighted terms under their recorded names: the student's auxiliary head has a separate one."""
    (seen, _), loss = graph.kept["student_ce"], graph.losses["student_ce"]
    if seen.aux is not None:
        auxiliary = loss.aux_weight * loss.of_head(seen.aux, labels, seen.align_corners)
        auxiliary = graph.weights_at(iteration)["student_ce"] * auxiliary
        terms = terms | {"student_aux_ce": auxiliary, "student_ce": terms["student_ce"] - auxiliary}
    return {f"term:{label}": term for label, term in terms.items()}


def objective(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    labels, iteration = inputs["labels"], params["iteration"]
    student = {"logits": inputs["student_logits"], "stage4": inputs["student_feature"]}
    if params["with_aux"]:
        student["aux"] = inputs["aux_logits"]
    teacher = {"logits": inputs["teacher_logits"], "sam": inputs["teacher_feature"]}
    networks = {"student": Recorded({"labelled": student}), "teacher": Recorded({"labelled": teacher})}
    how = {"ignore_index": params["ignore_index"], "iteration": iteration}
    found = objective_of(recipe_for(params, labels.numel()), networks, labels, **how)
    return results(found.total, inputs, **recorded_terms(found.graph, found.terms, labels, iteration))


RUNNERS = {
    "lora_qkv": lora,
    "tsic_prompt_attention": prompt_attention,
    "sam_pos_embed": pos_embed,
    "sam_rel_pos": rel_pos,
    "tsic_mask_prompt": mask_embedding,
    "tsic_ts_mse": channel_mean,
    "tsic_total": objective,
}

TOLERANCE = {
    "lora_qkv": {"relative": 1e-10},
    "tsic_prompt_attention": {"relative": 1e-10},
    # features recorded in float32, of magnitude 1
    "sam_pos_embed": 1e-5,
    "sam_rel_pos": 1e-5,
    "tsic_mask_prompt": {"relative": 1e-5},
}
