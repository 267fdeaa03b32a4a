"""Recorded cases of SAM and TSIC: the encoder's maps, the mask decoder, the teacher's head, a whole training step.

They are recognised by the parts their checkpoints hold. All run in float32, as they were recorded.
"""

import torch
from recorded.arrays import Arrays, named, plain
from recorded.checkpoints import network_of
from recorded.fill import fill_input
from recorded.interactive import recipe_for, recorded_terms
from recorded.recipes import graph_of
from torch import Tensor, nn

from segkd.models import _checkpoints
from segkd.models._mask_prompt import decode, decode_masks, embed_mask, mask_prompt
from segkd.models._weights import fill
from segkd.models.sam import SAM
from segkd.runner.building.graph import weighted

# the smallest SAM: what a case of a part alone has no entries for
SMALLEST = {"embed_dim": 8, "depth": 4, "num_heads": 2, "global_blocks": [0, 1, 2, 3], "image_size": 32}
# TSIC's variants: weights of its three distillation terms, and the last iteration without them (base never has them)
VARIANTS = {"LoRA": ((5.0, 1.0, 1.0), 500), "KD": ((1.0, 0.5, 0.5), 100), "base": ((0.0, 0.0, 0.0), 500)}
# what they share
SETTINGS = {"temperature": 5.0, "aux_weight": 0.4, "ohem_thresh": 0.7, "ohem_min_kept_per_image": 100_000}


def run(case: dict, state: dict[str, Tensor], arrays: Arrays) -> Arrays | None:
    """Expected name -> computed, whole maps; None for a case of another method."""
    held = {key.split(".")[0] for key in state}
    if "mask_decoder" in held and "image_encoder" not in held:
        found = mask_decoder(case, state, named(arrays, "input"))
    elif {"neck", "decode_head"} <= held and "image_encoder" not in held:
        found = head(case, state)
    elif "image_encoder" in held and "Prompt_backbone" in held:
        found = training_step(case, state, named(arrays, "input"))
    elif "image_encoder" in held:
        found = encoder(case, state)
    else:
        return None
    return plain(found)


@torch.no_grad()
def encoder(case: dict, state: dict[str, Tensor]) -> dict[str, Tensor]:
    params = case["params"]
    network = network_of(state, image_size=params["tsic_img_size"], taps=params["out_indices"])
    network.features_wanted = {f"neck{j + 1}" for j in range(len(network.taps))}
    features = network(fill_input(case["input_shape"])).features
    found = {}
    for block, x in zip(network.taps, features.values(), strict=True):
        found[f"feat_{block}"] = x
        found[f"feat_{block}_mean_std_absmax"] = torch.stack([x.mean(), x.std(), x.abs().max()])
    return found


@torch.no_grad()
def mask_decoder(case: dict, state: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    channels = state["mask_decoder.mask_tokens.weight"].shape[1]
    network = SAM(2, prompt_guidance="released", out_channels=channels, neck_width=8, head_width=8, **SMALLEST).eval()
    own = {key: value for key, value in network.state_dict().items() if key not in state}
    fill(network, network.fitted(state | own), case["case"])
    mask = inputs["mask"].float().unflatten(0, (-1, 1))  # (N, 1, H, W)
    embedded = embed_mask(network.prompt_encoder, mask, tuple(case["params"]["dense_grid"]))
    tokens, _ = decode(network.mask_decoder, inputs["image_embedding"], *embedded)
    quality = network.mask_decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
    masks = decode_masks(network.mask_decoder, inputs["image_embedding"], *embedded)
    return {"low_res_masks": masks, "iou": quality}


@torch.no_grad()
def head(case: dict, state: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = _checkpoints.read(state, "tsic")
    neck_width, channels = ours["neck.laterals.0.weight"].shape[:2]
    num_classes, head_width = ours["classifier.weight"].shape[:2]
    widths = {"out_channels": channels, "neck_width": neck_width, "head_width": head_width}
    network = SAM(num_classes, **widths, **SMALLEST).eval()
    own = {key: value for key, value in network.state_dict().items() if key.startswith("backbone.")}
    fill(network, network.fitted(ours | own), case["case"])
    levels = network.neck([fill_input(shape, name) for name, shape in case["inputs"]])
    found = {f"neck_{j}": level for j, level in enumerate(levels)}
    return found | {"logits": network.classifier(network.head(levels))}


def training_step(case: dict, state: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """TSIC's terms as its recipe lists them: both networks learn, the student's classes prompt the teacher."""
    params, labels = case["params"], inputs["labels"]
    teacher = network_of(state, image_size=params["tsic_img_size"])
    student = network_of(state, "student")
    ratios, gate = VARIANTS[params["variant"]]
    settings = SETTINGS | dict(zip(("ts_kl_ratio", "ets_kl_ratio", "ts_mse_ratio"), ratios, strict=True))
    recipe = recipe_for(settings | {"teacher_starts_after_iteration": gate}, labels.numel())
    graph = graph_of(recipe, {"student": student, "teacher": teacher}, 255, torch.float32).eval()
    student.aux_wanted, graph.keep_predictions = True, True
    teacher.features_wanted |= {"sam", "masks"}
    images, iteration = fill_input(case["input_shape"]), params["iteration"]
    terms = weighted(graph(images, labels, iteration), graph.weights_at(iteration))
    loss = sum(terms.values())
    loss.backward()
    (small, _), (large, _) = graph.kept["student_ce"], graph.kept.get("teacher_ce", (None, None))
    found = {"loss": loss, "student_logits": small.logits, "prompt_mask": mask_prompt(small, images.shape[-2:])[:, 0]}
    if large is not None:  # before the gate it does not run
        found |= {"teacher_logits": large.logits, "low_res_masks": large.features["masks"]}
        found[f"sam_feat_{teacher.taps[-1]}"] = large.features["sam"]
    norms = {f"grad_norm:{name}": norm for name, norm in gradient_norms(student, teacher).items()}
    return found | recorded_terms(graph, terms, labels, iteration) | norms


def gradient_norms(student: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """Of the groups of parameters of the recording; what is frozen in ours has exactly no gradient in the original."""
    encoder = dict(teacher.backbone.named_parameters())
    small = {name: list(part.parameters()) for name, part in student.named_children()}
    groups = {
        "neck": teacher.neck.parameters(),
        "decode_head": [*teacher.head.parameters(), *teacher.classifier.parameters()],
        "decode_head.att_conv": teacher.prompt_attention.parameters(),
        "SAM.image_encoder": [weight for name, weight in encoder.items() if ".linear_" not in name],
        "SAM.lora": [weight for name, weight in encoder.items() if ".linear_" in name],
        "SAM.prompt_encoder": teacher.prompt_encoder.parameters(),
        "SAM.mask_decoder": teacher.mask_decoder.parameters(),
        "Prompt_backbone": small["backbone"],
        "Prompt_auxiliary_head": small.pop("aux_head", []),
        "Prompt_head": [weight for name, weights in small.items() if name != "backbone" for weight in weights],
    }
    norms = {}
    for name, weights in groups.items():
        squares = [weight.grad.double().square().sum() for weight in weights if weight.grad is not None]
        norms[name] = torch.stack([torch.zeros((), dtype=torch.float64), *squares]).sum().sqrt()
    return norms
