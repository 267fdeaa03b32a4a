"""The network a score is asked for: a run's, from a file of any code, from a folder that describes it, or several."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.utils.data import Dataset

from segkd.runner.building import delivered
from segkd.runner.building.frozen import cheaper
from segkd.runner.building.graph import Graph
from segkd.runner.building.networks import build_network, mapped, weights_path
from segkd.runner.recipe.hub import place_of
from segkd.runner.recipe.mistakes import did_you_mean
from segkd.runner.recipe.program_file import ProgramFile
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.student_folder import described
from segkd.runner.run_folder.pretrained import load
from segkd.runner.run_folder.weights import weights_file
from segkd.runner.scoring.evaluation import Together
from segkd.runner.scoring.program import Program, load_program


@dataclass(frozen=True)
class GivenWeights:
    """What the command line says of weights: a file or folder, whose names it uses, which network of several it is."""

    path: str | None = None
    layout: str | None = None
    part: str | None = None


def choose_network(
    words: str, recipe: Recipe, dataset: Dataset, run: Path, weights: GivenWeights
) -> tuple[nn.Module, str]:
    """The network called `words`, or the mean of several joined by +, and where its weights are from.

    Args:
        run: folder of the run whose networks are asked for.
        weights: in place of those of the run or the recipe; for one network alone.

    Raises:
        ValueError: no such network, none with scores, or weights of another one. FileNotFoundError: no such weights.
    """
    names, known = words.split("+"), list(recipe.networks)
    for name in names:
        if name not in known:
            raise ValueError(f"--network {name}: the recipe has {', '.join(known)}{did_you_mean(name, known)}")
    if weights.path is None and (weights.layout or weights.part):
        raise ValueError("--layout and --part say what a weights file holds; name the file with --weights")
    if weights.path is not None and len(names) > 1:
        raise ValueError(f"--weights are of one network, and --network {words} asks for {len(names)}")
    prompts = {name: recipe.networks[name].prompted_by for name in names if recipe.networks[name].prompted_by}
    networks, origins = {}, {}
    for name in dict.fromkeys([*names, *prompts.values()]):
        asked = weights if name in names else GivenWeights()
        networks[name], origins[name] = _network(name, recipe, dataset, run, asked)
        if name in names and not networks[name].gives_logits:
            raise ValueError(f"--network {name}: it has features only and no head, so no scores")
    origin = " and ".join(dict.fromkeys(origins[name] for name in names))
    if len(names) == 1 and not prompts:
        return networks[words], origin
    return Together(Graph(networks, {}, [], {}, prompted_by=prompts), names), origin


def _network(name: str, recipe: Recipe, dataset: Dataset, run: Path, weights: GivenWeights) -> tuple[nn.Module, str]:
    """One network with the data set's classes, and where its weights are from."""
    entry, owner, path = recipe.networks[name], f"networks.{name}", weights.path
    program = None if path is None else ProgramFile.named(path)
    if program is not None and (weights.layout or weights.part):
        raise ValueError(f"--layout and --part say what a weights file holds; {path} is a whole network")
    tells = path is not None and not (program or weights.layout or weights.part)
    config = described(place_of(path)) if tells else None
    if program is not None:
        network, origin = load_program(path), f"{path} ({program.kind})"
        refuse_other_order(network, dataset, path)
    elif config is not None:
        network, origin = cheaper(load(config, path, weights_file(path)), entry), path
    elif path is None and name != "student" and (entry.train or entry.ema_of):
        network, origin = delivered.find(str(run), name).network, str(run)
    else:
        if path is not None or entry.train:
            entry = entry.model_copy(
                update={"weights": path or str(run), "layout": weights.layout, "part": weights.part}
            )
        origin = weights_path(entry) or f"{entry.source}:{entry.model}"
        if entry.weights is None and entry.source == "segkd":
            raise ValueError(f"{owner} has no weights in the recipe; name some with --weights")
        network = build_network(
            name, entry, dataset.num_classes, recipe.seed, dataset.class_names, trust=recipe.trust_checkpoint
        )
        return cheaper(network, entry), origin
    if entry.class_map and network.num_classes != dataset.num_classes:
        network = mapped(network, entry, None, dataset.class_names, owner)
    if network.num_classes != dataset.num_classes:
        raise ValueError(
            f"{origin} has {network.num_classes} classes and {recipe.data.dataset} has {dataset.num_classes}; score it "
            f"on the data it was trained for, or give {owner} a class_map"
        )
    return network, origin


def refuse_other_order(network: Program, dataset: Dataset, path: str) -> None:
    """ValueError for an exported file that has the data set's classes in another order."""
    names, ours = network.about.get("class_names"), list(dataset.class_names)
    if names is not None and names != ours and sorted(names) == sorted(ours):
        raise ValueError(f"{path} has the data set's classes in another order: {', '.join(names)[:200]}")
