"""Golden cases of whole distillation steps: recorded networks and losses as a recipe's graph, one step through it."""

import functools
import zlib

import numpy as np
import torch
from parity_baselines import filled
from parity_losses import EPSILON, Arrays, prediction
from torch import Tensor, nn

from segkd.losses._task import resize
from segkd.models._layouts import mmseg
from segkd.models._prediction import Normalize
from segkd.models.pspnet import PSPNet
from segkd.runner.building.graph import Graph, weighted
from segkd.runner.building.losses import build_graph
from segkd.runner.recipe.schema import Recipe

IGNORED = 255
PSPNET = mmseg.renaming("pspnet", "v1c")
REGIONS = {"cross_sim": "cross_similarity", "euclidean": "region_distance", "cosine": "region_cosine"}
# the original's module names inside a loss -> ours
INSIDE = {"align": "align", "generation": "generation", "embed_s.proj": "embed"}


def loss_entry(recorded: dict, feature: str) -> dict:
    """A recorded loss as a recipe's term."""
    if recorded["type"] == "RMRKDLoss":
        assert recorded["decoupled"], "pixels outside a region are always compared too"
        kind = recorded["distance_type"]
        args = {"feature": feature} | ({"temperature": recorded["tau"]} if kind == "cross_sim" else {})
        return {"loss": REGIONS[kind], "weight": recorded["loss_weight"], "args": args}
    if recorded["type"] == "FeatureLoss":
        args = {"feature": feature, "masked": recorded["lambda_mgd"]}
        return {"loss": "mgd", "weight": recorded["alpha_mgd"], "args": args}
    assert recorded["type"] == "DecoupledKD", recorded["type"]
    args = {
        "temperature": recorded["tau"],
        "target_weight": recorded["loss_weight1"],
        "rest_weight": recorded["loss_weight2"],
        "softmax_over": {0: "batch_class", 1: "spatial"}[recorded["dim"]],
    }
    return {"loss": "dkd", "args": args}


def recipe_of(params: dict) -> Recipe:
    feature = f"stage{5 + params['feature_index']}"  # the index counts from the end
    network = {"stem": "v1c", "dilation_rule": "mmseg", "dropout": params["dropout_ratio"]}
    losses = [{"loss": "cross_entropy", "label": "ce", "args": {"divisor": "all"}}]
    losses += [
        loss_entry(recorded, feature) | {"from": "teacher", "label": recorded["name"]}
        for recorded in params["distill_cfg"]
    ]
    return Recipe(
        name="step",
        data={"dataset": "synthetic", "crop_size": tuple(params["image_shape"][2:])},
        networks={
            name: {"model": "pspnet", "args": network | {"backbone": backbone}, "train": name == "student"}
            for name, backbone in (("student", "resnet18"), ("teacher", "resnet101"))
        },
        losses=losses,
        schedule={"iterations": 1},
    )


def graph_of(params: dict) -> Graph:
    """The graph in float64, its normalisation off: the recorded image has been through it."""
    recipe = recipe_of(params)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):  # nothing is drawn for entries that are all filled later
            networks = {name: PSPNet(params["num_classes"], **net.args) for name, net in recipe.networks.items()}
        for network in networks.values():
            network.to_empty(device="cpu").normalize = Normalize.named("none")
        return build_graph(recipe, networks, IGNORED).train()
    finally:
        torch.set_default_dtype(before)


def own_entries(graph: Graph, recorded: list[str]) -> dict[str, Tensor]:
    """Recorded name -> our parameter or buffer; without those of the original's that none of its losses reads."""
    networks = {name: entries(graph.network(name)) for name in ("student", "teacher")}
    losses = {label: entries(loss) for label, loss in graph.losses.items()}
    found = {}
    for name in recorded:
        owner, key = name.split(".", 1)
        if owner in networks:
            (own,) = PSPNET.to_ours({key: None})
            found[name] = networks[owner][own]
            continue
        label, key = key.split(".", 1)
        theirs = next((module for module in INSIDE if key.startswith(module + ".")), None)
        ours = INSIDE[theirs] + key.removeprefix(theirs) if theirs else None
        if ours in losses[label]:
            found[name] = losses[label][ours]
    return found


def entries(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


@torch.no_grad()
def fill(held: dict[str, Tensor], scales: list[dict]) -> None:
    """Gives every entry the weight its recorded name stands for, scaled where the case says so."""
    for name, entry in held.items():
        weight = filled(name, tuple(entry.shape))
        for rule in scales:
            if name.startswith(rule["prefix"]) and name.endswith(rule["suffix"]):
                weight = weight.float() * rule["factor"]  # rounded to float32, as recorded
        entry.copy_(weight)


def standard_normal(shape: tuple[int, ...], name: str = "input") -> Tensor:
    """The recorded image: drawn from the checksum of its name, in float32."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32)).double()


def rmrkd_step(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    graph = graph_of(params)
    shapes = {name: tuple(shape) for name, shape in case["state"]["entries"]}
    held = own_entries(graph, list(shapes))
    assert all(entry.shape == shapes[name] for name, entry in held.items())
    networks = [graph.network(name).state_dict() for name in ("student", "teacher")]
    own = [*graph.parameters(), *(entry for network in networks for entry in network.values())]
    assert {x.data_ptr() for x in own} <= {x.data_ptr() for x in held.values()}, "an entry of ours has no recorded one"
    fill(held, params.get("fill_scale", []))
    for loss in graph.losses.values():
        if type(loss).__name__ == "MGD":
            drawn = torch.from_numpy(arrays["draw:uniform"])
            loss.error = functools.partial(with_draw, loss.error, drawn)
    graph.keep_predictions = True
    target = torch.from_numpy(arrays["input:labels"]).squeeze(1)  # (B, 1, H, W) -> (B, H, W)
    losses = weighted(graph(standard_normal(params["image_shape"]), target, 0), graph.weights_at(0))
    total = sum(losses.values())
    total.backward()
    computed = losses | {"loss": total} | head_terms(graph, target)
    for name, entry in held.items():
        computed[f"after:{name}"] = entry
        if entry.grad is not None:
            computed |= {f"grad:{name}": entry.grad, f"gradnorm:{name}": entry.grad.norm()}
    return {name: value.detach().numpy() for name, value in computed.items()}


def with_draw(error, drawn: Tensor, features: Tensor, goal: Tensor, uniform: Tensor) -> Tensor:
    assert drawn.shape == uniform.shape
    return error(features, goal, drawn)


def head_terms(graph: Graph, target: Tensor) -> dict[str, Tensor]:
    """Cross entropy and share of right pixels, in percent, of the student's two heads apart."""
    (seen, _), loss = graph.kept["ce"], graph.losses["ce"]
    counted = target != IGNORED
    found = {}
    for name, logits, weight in (("decode", seen.logits, 1.0), ("aux", seen.aux, loss.aux_weight)):
        head = prediction(logits.detach(), seen.align_corners)
        winner = resize(head.logits, target.shape[-2:], seen.align_corners).argmax(1)
        found[f"{name}.loss_ce"] = weight * loss(head, None, target)
        right = ((winner == target) & counted).sum().double()
        found[f"{name}.acc_seg"] = 100 * (right + EPSILON) / (counted.sum() + EPSILON)
    return found


RUNNERS = {"rmrkd_step": rmrkd_step}

TOLERANCE = {
    # the recorded percentages went through float32
    "rmrkd_step": {"decode.acc_seg": {"relative": 1e-6}, "aux.acc_seg": {"relative": 1e-6}, "*": {"relative": 1e-9}},
}
