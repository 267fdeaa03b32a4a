"""The network a score is asked for: a run's, from a file of any code, from a folder that describes it, or several."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from segkd.runner.building import delivered
from segkd.runner.building.graph import Graph
from segkd.runner.building.networks import build_network, gives_scores, mapped, weights_path
from segkd.runner.recipe.mistakes import did_you_mean
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.pretrained import from_pretrained
from segkd.runner.scoring.evaluation import Together


@dataclass(frozen=True)
class Weights:
    """What the command line says of weights: a file or folder, whose names it uses, which network of several it is."""

    path: str | None = None
    layout: str | None = None
    part: str | None = None


def find_recipe(path: str) -> tuple[str, Path | None]:
    """The recipe that a path names, and the run folder it is in where a run or student folder was given.

    Raises:
        ValueError: a folder without a recipe.
    """
    folder = Path(path)
    if not folder.is_dir():
        return path, None
    for run in (folder, *([folder.parent] if folder.name == "student" else [])):
        if (run / "recipe.yaml").is_file():
            return str(run / "recipe.yaml"), run
    raise ValueError(
        f"{path} holds no recipe.yaml, so nothing says on which data to score; give a recipe and --weights {path}"
    )


def scored_network(
    words: str, recipe: Recipe, dataset: torch.utils.data.Dataset, run: Path, weights: Weights
) -> tuple[nn.Module, str]:
    """The network called `words`, or the mean of several joined by +, and where its weights are from.

    Args:
        run: folder of the run whose networks are asked for.
        weights: in place of those of the run or the recipe; for one network alone.

    Raises:
        ValueError: no such network, none with scores, or weights of another one. FileNotFoundError: no such weights.
    """
    names = words.split("+")
    for name in names:
        if name not in recipe.networks:
            known = list(recipe.networks)
            raise ValueError(f"--network {name}: the recipe has {', '.join(known)}{did_you_mean(name, known)}")
    prompts = {name: recipe.networks[name].prompted_by for name in names if recipe.networks[name].prompted_by}
    if weights.path is None and (weights.layout or weights.part):
        raise ValueError("--layout and --part say what a weights file holds; name the file with --weights")
    if weights.path is not None and len(names) > 1:
        raise ValueError(f"--weights are of one network, and --network {words} asks for {len(names)}")
    found = {name: _network(name, recipe, dataset, run, weights) for name in names}
    for name in {*prompts.values()} - found.keys():
        found[name] = _network(name, recipe, dataset, run, Weights())
    origin = " and ".join(dict.fromkeys(found[name][1] for name in names))
    networks = {name: network for name, (network, _) in found.items()}
    for name in names:
        if not gives_scores(networks[name]):
            raise ValueError(f"--network {name}: it has features only and no head, so no scores")
    if len(names) == 1 and not prompts:
        return networks[words], origin
    return Loaded(Graph({}, networks, [], {}, prompted_by=prompts), names), origin


class Loaded(Together):
    """Several networks that nothing trains, moved to a device together."""

    def __init__(self, graph: Graph, names: list[str]):
        super().__init__(graph, names)
        needed = dict.fromkeys([*names, *graph.prompted_by.values()])
        self.loaded = nn.ModuleList(graph.network(name) for name in needed)


def _network(
    name: str, recipe: Recipe, dataset: torch.utils.data.Dataset, run: Path, weights: Weights
) -> tuple[nn.Module, str]:
    """One network with the data set's classes, and where its weights are from."""
    entry, owner = recipe.networks[name], f"networks.{name}"
    described = None if weights.layout or weights.part else _described(weights.path)
    if described is not None:
        network, origin = from_pretrained(described), weights.path
    elif weights.path is None and name != "student" and (entry.train or entry.ema_of):
        network, origin = delivered.find(str(run), name).network, str(run)
    else:
        origin = weights.path or (str(run) if entry.train else weights_path(entry))
        if origin is None and entry.source == "segkd":
            raise ValueError(f"{owner} has no weights in the recipe; name some with --weights")
        if origin is not None:
            same = weights.path is None and not entry.train  # a file of the recipe, which says whose it is
            told = {} if same else {"layout": weights.layout, "part": weights.part}
            entry = entry.model_copy(update={"weights": origin, **told})
        network = build_network(
            name, entry, dataset.num_classes, recipe.seed, dataset.class_names, trust=recipe.trust_checkpoint
        )
        return network, origin or f"{entry.source}:{entry.model}"
    if entry.class_map and network.num_classes != dataset.num_classes:
        network = mapped(network, entry, None, dataset.class_names, owner)
    if network.num_classes != dataset.num_classes:
        raise ValueError(
            f"{origin} has {network.num_classes} classes and {recipe.data.dataset} has {dataset.num_classes}; score it "
            f"on the data it was trained for, or give {owner} a class_map"
        )
    return network, origin


def _described(path: str | None) -> Path | None:
    """The folder with the config.json that describes the network in it, None where nothing does."""
    for folder in (Path(path) / "student", Path(path)) if path else ():
        file = folder / "config.json"
        # one without `model` is another library's
        if file.is_file() and "model" in json.loads(file.read_text()):
            return folder
    return None
