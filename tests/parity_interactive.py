"""Golden cases of the modules of TSIC: from the recorded names and params to models/."""

import re

import numpy as np
import torch
from parity_baselines import states
from parity_losses import Arrays, results, tensors
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn

from segkd.models._lora import LoRAQKV
from segkd.models._mask_prompt import PromptAttention, embed_mask, mask_prompt
from segkd.models._prediction import Prediction
from segkd.models._sam import relative_positions, resize_pos_embed, resize_rel_pos


def lora(case: dict, arrays: Arrays) -> Arrays:
    params, inputs, state = case["params"], tensors(arrays), states(arrays)
    assert params["scaling"] == 1 and params["dropout"] == 0, "the update has neither factor nor dropout"
    outputs, width = state["qkv.weight"].shape
    base = nn.Linear(width, outputs, bias="qkv.bias" in state)
    targets = tuple(third for third in "qkv" if f"linear_a_{third}.weight" in state)
    layer = LoRAQKV(base, params["rank"], targets).double()
    layer.load_state_dict(state)
    trained = {name: weight for name, weight in layer.named_parameters() if weight.requires_grad}
    return with_cotangent(layer(inputs["tokens"]), arrays, inputs | trained)


def with_cotangent(output: Tensor, arrays: Arrays, leaves: dict[str, Tensor], **others: Tensor) -> Arrays:
    """The output and the gradients of its product with the recorded draw."""
    loss = (output * torch.from_numpy(arrays["draw:cotangent"])).sum()
    return results(loss, leaves, output=output, **others)


def prompt_attention(case: dict, arrays: Arrays) -> Arrays:
    inputs, state = tensors(arrays), states(arrays)
    layer = PromptAttention(inputs["features"].shape[1]).double().eval()
    state.setdefault("bn.num_batches_tracked", torch.tensor(0))
    layer.load_state_dict(state)
    output = layer(inputs["features"], inputs["prompt_masks"])
    energy = layer.energy(inputs["features"], inputs["prompt_masks"])
    return with_cotangent(output, arrays, inputs | dict(layer.named_parameters()), energy=energy)


def pos_embed(case: dict, arrays: Arrays) -> Arrays:
    params, table = case["params"], torch.from_numpy(arrays["input:pos_embed"])
    loaded = resize_pos_embed(table, params["model_grid"])
    stages = {"one_stage": table, "two_stage": loaded}
    return {name: resize_pos_embed(start, params["target_grid"]).numpy() for name, start in stages.items()}


def rel_pos(case: dict, arrays: Arrays) -> Arrays:
    params, table = case["params"], torch.from_numpy(arrays["input:rel_pos"])
    loaded = resize_rel_pos(table, params["model_grid"])
    stages = {"one_stage": table, "two_stage": loaded}
    return {name: relative_positions(start, params["tokens"]).numpy() for name, start in stages.items()}


def mask_embedding(case: dict, arrays: Arrays) -> Arrays:
    params, state = case["params"], states(arrays)
    width, hidden = state["mask_downscaling.6.weight"].shape[:2]
    encoder = PromptEncoder(width, (1, 1), (16, 16), hidden)  # sizes that only points, boxes and its own grid read
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert not unexpected and all("embed" in key for key in missing), "only embeddings of points may be missing"
    logits = torch.from_numpy(arrays["input:student_logits"])
    mask = mask_prompt(Prediction(logits, params["align_corners"]), params["image_size"])
    sparse, dense, positions = embed_mask(encoder, mask, params["dense_grid"])
    kept = re.search(r"every (\d+)", params["channels_kept"])
    step = int(kept[1]) if kept else 1
    return {
        "mask": mask.squeeze(1).long().numpy(),  # (B, 1, H, W) -> (B, H, W)
        "dense_embedding": dense[:, ::step].detach().numpy(),
        "dense_pe": positions[:, ::step].numpy(),
        "sparse_shape": np.array(sparse.shape),
    }


RUNNERS = {
    "lora_qkv": lora,
    "tsic_prompt_attention": prompt_attention,
    "sam_pos_embed": pos_embed,
    "sam_rel_pos": rel_pos,
    "tsic_mask_prompt": mask_embedding,
}

TOLERANCE = {
    "lora_qkv": {"relative": 1e-10},
    "tsic_prompt_attention": {"relative": 1e-10},
    # recorded in float32
    "sam_pos_embed": {"relative": 1e-6},
    "sam_rel_pos": {"relative": 1e-6},
    "tsic_mask_prompt": {"relative": 1e-5},
}
