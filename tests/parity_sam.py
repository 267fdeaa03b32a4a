"""Recorded cases of SAM and TSIC: the encoder's maps, the mask decoder, the teacher's head, a whole training step.

They are recognised by the parts their checkpoints hold. All run in float32, as they were recorded.
"""

import numpy as np
import torch
from parity_fill import fill_input
from torch import Tensor, nn

from segkd.losses._task import Features, Task
from segkd.losses.channel_mean import ChannelMean
from segkd.losses.cross_entropy import CrossEntropy
from segkd.losses.kl import KL
from segkd.models import _checkpoints
from segkd.models._mask_prompt import decode, decode_masks, embed_mask, mask_prompt
from segkd.models._prediction import Normalize, Prediction
from segkd.models._weights import fill
from segkd.models.sam import SAM
from segkd.runner.recipe import parts

# the smallest SAM: what a case of a part alone has no entries for
SMALLEST = {"embed_dim": 8, "depth": 4, "num_heads": 2, "global_blocks": [0, 1, 2, 3], "image_size": 32}
# TSIC's variants: weights of its three distillation terms, and the last iteration without them (base never has them)
VARIANTS = {"LoRA": ((5.0, 1.0, 1.0), 500), "KD": ((1.0, 0.5, 0.5), 100), "base": ((0.0, 0.0, 0.0), 500)}


def run(case: dict, state: dict[str, Tensor], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Expected name -> computed, whole maps; None for a case of another method."""
    held = {key.split(".")[0] for key in state}
    inputs = {key.removeprefix("input:"): torch.from_numpy(value) for key, value in arrays.items()}
    if "mask_decoder" in held and "image_encoder" not in held:
        found = mask_decoder(case, state, inputs)
    elif {"neck", "decode_head"} <= held and "image_encoder" not in held:
        found = head(case, state)
    elif "image_encoder" in held and "Prompt_backbone" in held:
        found = training_step(case, state, inputs)
    elif "image_encoder" in held:
        found = encoder(case, state)
    else:
        return None
    return {name: value.detach().numpy() for name, value in found.items()}


def network_of(state: dict[str, Tensor], part: str | None = None, **changes: object) -> nn.Module:
    """The network that a checkpoint fits, with its weights, taking inputs as they are."""
    layout = _checkpoints.guess(state)
    described = _checkpoints.describe(state, layout, part)
    network = parts.build("models", described.model, described.args | changes, described.num_classes)
    entries = _checkpoints.read(state, layout, part)
    fill(network, network.fitted(entries) if hasattr(network, "fitted") else entries, "the case")
    network.normalize = Normalize.named("none")
    return network.eval()


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
    """TSIC's terms as a recipe lists them: both networks learn, the student's classes prompt the teacher."""
    params = case["params"]
    student = network_of(state, "student")
    teacher = network_of(state, image_size=params["tsic_img_size"])
    student.features_wanted, student.aux_wanted = {"stage4"}, True
    teacher.features_wanted = {"sam", "masks"}
    images = fill_input(case["input_shape"])
    small = student(images)
    prompt = mask_prompt(small, images.shape[-2:])
    large = teacher(images, prompt)
    terms = objective(params, student, teacher, small, large, inputs["labels"])
    loss = sum(terms.values())
    loss.backward()
    found = {
        "loss": loss,
        "student_logits": small.logits,
        "teacher_logits": large.logits,
        "low_res_masks": large.features["masks"],
        "prompt_mask": prompt[:, 0],
        f"sam_feat_{teacher.taps[-1]}": large.features["sam"],
    }
    found |= {f"term:{name}": value for name, value in terms.items()}
    return found | {f"grad_norm:{name}": norm for name, norm in gradient_norms(student, teacher).items()}


def objective(
    params: dict, student: nn.Module, teacher: nn.Module, small: Prediction, large: Prediction, labels: Tensor
) -> dict[str, Tensor]:
    tables = [Features(name, net.channels, net.strides) for name, net in (("student", student), ("teacher", teacher))]
    task, backwards = (Task(params["num_classes"], 255, *order) for order in (tables, tables[::-1]))
    mined = CrossEntropy(task, divisor="all", ohem_rule="image", ohem_min_kept=100_000, ohem_threshold=0.7)
    softened = {"temperature": 5.0, "reduction": "element"}
    terms = {
        "student_ce": mined(Prediction(small.logits), None, labels),
        "student_aux_ce": 0.4 * mined(Prediction(small.aux), None, labels),
    }
    weights, gate = VARIANTS[params["variant"]]
    if params["iteration"] <= gate:
        return terms
    terms["teacher_ce"] = mined(large, None, labels)
    distilled = {
        "ts_kl": KL(task, size="teacher", **softened)(small, large, None),
        "ets_kl": KL(backwards, guide="mean", **softened)(large, small, None),
        "ts_mse": ChannelMean(task, feature="stage4", teacher_feature="sam")(small, large, None),
    }
    weighted = {name: weight * value for (name, value), weight in zip(distilled.items(), weights, strict=True)}
    return terms | {name: value for name, value in weighted.items() if params["variant"] != "base"}


def gradient_norms(student: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """Of the groups of parameters of the recording; what is frozen here has exactly no gradient there."""
    encoder = dict(teacher.backbone.named_parameters())
    groups = {
        "neck": teacher.neck.parameters(),
        "decode_head": [*teacher.head.parameters(), *teacher.classifier.parameters()],
        "decode_head.att_conv": teacher.prompt_attention.parameters(),
        "SAM.image_encoder": [weight for name, weight in encoder.items() if ".linear_" not in name],
        "SAM.lora": [weight for name, weight in encoder.items() if ".linear_" in name],
        "SAM.prompt_encoder": teacher.prompt_encoder.parameters(),
        "SAM.mask_decoder": teacher.mask_decoder.parameters(),
        "Prompt_backbone": student.backbone.parameters(),
        "Prompt_head": [*student.aspp.parameters(), *student.classifier.parameters()],
        "Prompt_auxiliary_head": student.aux_head.parameters(),
    }
    norms = {}
    for name, weights in groups.items():
        squares = [weight.grad.double().square().sum() for weight in weights if weight.grad is not None]
        norms[name] = torch.stack([torch.zeros((), dtype=torch.float64), *squares]).sum().sqrt()
    return norms
