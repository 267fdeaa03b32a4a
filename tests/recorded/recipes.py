"""Recorded scores and features in the place of a recipe's networks: an objective as the loop computes it."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from recorded.arrays import precision
from torch import Tensor, nn

from segkd.models._network import Network
from segkd.runner.building.graph import Graph, weighted
from segkd.runner.building.losses import build_graph
from segkd.runner.loading.batch import Batch
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
PARTS = ("labelled", "unlabelled")


class Recorded(Network):
    """A network that answers a part of a batch with what was recorded for it.

    Args:
        maps: part of the batch -> `logits`, maybe `aux`, and features under their names, each (B, C, h, w).
        align_corners: how the maps are resized.
    """

    def __init__(self, maps: dict[str, dict[str, Tensor]], align_corners: bool = False):
        first = next(iter(maps.values()))
        super().__init__(first["logits"].shape[1], align_corners=align_corners, normalize="none")
        self.maps = maps
        self.has_aux, self.takes_prompt = "aux" in first, True
        for name, x in first.items():
            if name not in ("logits", "aux"):
                self.add_features([name], x.shape[1], 8)  # no loss of these objectives reads the stride

    def compute(self, x: Tensor, wanted: set[str], prompt: Tensor | None) -> dict[str, Tensor]:
        # cloned: what a frozen network makes has no gradient behind it
        return {name: recorded.clone() for name, recorded in self.maps[PARTS[int(x.max())]].items()}


def pair_of(inputs: dict[str, Tensor], feature: str | None = None) -> dict[str, Recorded]:
    """A student and its teacher with their recorded scores, those of auxiliary heads, maybe a feature of this name."""
    networks = {}
    for owner in ("student", "teacher"):
        kinds = {"logits": f"{owner}_logits", "aux": f"{owner}_aux", feature: f"{owner}_feature"}
        maps = {kind: inputs[name] for kind, name in kinds.items() if kind is not None and name in inputs}
        networks[owner] = Recorded({"labelled": maps}, align_corners=True)
    return networks


def images_of(part: str, target: Tensor) -> Tensor:
    """Images that say nothing but which part of a batch they are, (B, 3, H, W) uint8 for (B, H, W) labels."""
    return torch.full((len(target), 3, *target.shape[-2:]), PARTS.index(part), dtype=torch.uint8)


def recipe_of(recipe: Path, overrides: dict[str, object]) -> Recipe:
    """A recipe file with the recorded parameters laid over it."""
    return read(recipe, [f"{key}={json.dumps(value)}" for key, value in overrides.items()])


def graph_of(
    recipe: Recipe, networks: dict[str, nn.Module], ignore_index: int, dtype: torch.dtype = torch.float64
) -> Graph:
    """The recipe's graph, weights and constants of its losses made at this precision."""
    with precision(dtype):
        return build_graph(recipe, dict(networks), ignore_index).train()


@dataclass
class Objective:
    """What one step minimises.

    Attributes:
        total: the sum of the weighted terms. terms: the same apart, by label. raw: unweighted. Both also hold
            terms whose weight is 0 at this iteration, but none behind a closed gate.
        graph: with what each active term saw in its `kept`.
    """

    total: Tensor
    terms: dict[str, Tensor]
    raw: dict[str, Tensor]
    graph: Graph


def objective_of(
    recipe: Recipe,
    networks: dict[str, Recorded],
    target: Tensor,
    *,
    ignore_index: int = 255,
    iteration: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Objective:
    """One step of a recipe over recorded networks."""
    # a graph leaves out what has no weight, which was recorded all the same
    losses = [term.model_copy(update={"weight": 1.0}) for term in recipe.losses]
    alike = graph_of(recipe.model_copy(update={"losses": losses}), networks, ignore_index, dtype)
    idle = losses_of(alike, target, iteration)
    graph = graph_of(recipe, networks, ignore_index, dtype)
    graph.keep_predictions = True
    raw = losses_of(graph, target, iteration)
    terms = weighted(raw, graph.weights_at(iteration))
    without = {label: 0 * value for label, value in idle.items()}
    return Objective(sum(terms.values()), without | terms, idle | raw, graph)


def losses_of(graph: Graph, target: Tensor, iteration: int = 0) -> dict[str, Tensor]:
    """The active terms, unweighted; with as many images without labels as with, where something is recorded of them."""
    unlabelled = None
    if any("unlabelled" in network.maps for network in graph.networks.values()):
        unlabelled = Batch(images_of("unlabelled", target), torch.zeros_like(target), [])
    return graph(images_of("labelled", target), target, iteration, unlabelled)
