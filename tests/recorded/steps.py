"""Golden cases of whole distillation steps: recorded networks and losses as a recipe's graph, one step through it."""

from recorded.arrays import Arrays, Tensors, named, plain, prediction, restore
from recorded.checkpoints import describe, network_of, recorded_entries
from recorded.fill import fill_input, fill_state
from recorded.losses import percent_right
from recorded.recipes import graph_of
from recorded.rmrkd import MODULES, dkd_options, region_options
from torch import Tensor, nn

from segkd.runner.building.graph import Graph, weighted
from segkd.runner.recipe.schema import Recipe

IGNORED = 255
STAGES = ("stage1", "stage2", "stage3", "stage4")
REGIONS = {"cross_sim": "cross_similarity", "euclidean": "region_distance", "cosine": "region_cosine"}


def term(recorded: dict, stage: str) -> dict:
    """A recorded loss as a recipe's term."""
    entry = {"from": "teacher", "label": recorded["name"]}
    if recorded["type"] == "RMRKDLoss":
        args = {"feature": stage} | region_options(recorded)
        return entry | {"loss": REGIONS[recorded["distance_type"]], "weight": recorded["loss_weight"], "args": args}
    if recorded["type"] == "FeatureLoss":
        args = {"feature": stage, "masked": recorded["lambda_mgd"]}
        return entry | {"loss": "mgd", "weight": recorded["alpha_mgd"], "args": args}
    assert recorded["type"] == "DecoupledKD", f"no term of ours is a {recorded['type']}"
    return entry | {"loss": "dkd", "args": dkd_options(recorded)}


def stage_of(recorded: dict, networks: dict[str, nn.Module], index: int) -> str:
    """The stage that has the recorded channels in both networks, else the one at the recorded index."""
    widths = {owner: recorded.get(f"{owner}_channels") for owner in networks}
    fit = [name for name in STAGES if all(net.channels[name] == widths[owner] for owner, net in networks.items())]
    return STAGES[index] if STAGES[index] in fit or not fit else fit[-1]


def recipe_of(params: dict, models: dict[str, str], networks: dict[str, nn.Module]) -> Recipe:
    index = params.get("feature_index", -1)
    terms = [term(recorded, stage_of(recorded, networks, index)) for recorded in params["distill_cfg"]]
    return Recipe(
        name="step",
        data={"dataset": "synthetic", "crop_size": tuple(params["image_shape"][2:])},
        networks={name: {"model": model, "train": name == "student"} for name, model in models.items()},
        losses=[{"loss": "cross_entropy", "label": "ce", "args": {"divisor": "all"}}, *terms],
        schedule={"iterations": 1},
    )


def step(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """One step in float64, for whatever networks the recorded entries are of."""
    state = fill_state(params | params["state"])
    owners = ("student", "teacher")
    networks = {name: network_of(state, name, dropout=params.get("dropout_ratio", 0.0)).double() for name in owners}
    models = {name: describe(state, name)[1].model for name in owners}
    graph = graph_of(recipe_of(params, models, networks), networks, IGNORED)
    held = {}
    for name, network in networks.items():
        held |= recorded_entries(network, state, name)
    for label, loss in graph.losses.items():
        held |= restore(loss, state, f"distill_losses.{label}.", MODULES)
        if type(loss).__name__ == "MGD":
            loss.error = with_draw(loss.error, named(arrays, "draw")["uniform"])
    graph.keep_predictions = True
    target = inputs["labels"].squeeze(1)  # (B, 1, H, W) -> (B, H, W)
    images = fill_input(params["image_shape"]).double()
    losses = weighted(graph(images, target, 0), graph.weights_at(0))
    total = sum(losses.values())
    total.backward()
    computed = losses | {"loss": total} | head_terms(graph, target)
    for name, entry in held.items():
        computed[f"after:{name}"] = entry
        if entry.grad is not None:
            computed |= {f"grad:{name}": entry.grad, f"gradnorm:{name}": entry.grad.norm()}
    return plain(computed)


def with_draw(error, drawn: Tensor):
    """MGD's error with the recorded draw in place of a new one."""

    def replaced(features: Tensor, goal: Tensor, uniform: Tensor) -> Tensor:
        assert drawn.shape == uniform.shape
        return error(features, goal, drawn)

    return replaced


def head_terms(graph: Graph, target: Tensor) -> dict[str, Tensor]:
    """Cross entropy and share of right pixels, in percent, of each of the student's heads."""
    (seen, _), loss = graph.kept["ce"], graph.losses["ce"]
    found = {}
    for name, logits, weight in (("decode", seen.logits, 1.0), ("aux", seen.aux, loss.aux_weight)):
        if logits is not None:
            head = prediction(logits.detach(), seen.align_corners)
            found[f"{name}.loss_ce"] = weight * loss(head, None, target)
            found[f"{name}.acc_seg"] = percent_right(head, target, target != IGNORED)
    return found


RUNNERS = {"rmrkd_step": step}

TOLERANCE = {
    # the recorded percentages went through float32
    "rmrkd_step": {"decode.acc_seg": {"relative": 1e-6}, "aux.acc_seg": {"relative": 1e-6}},
}
