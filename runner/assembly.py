"""Builds what a recipe names: data sets, networks, losses, graph and optimizer. Each is drawn from its own seed."""

import functools
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from segkd.datasets._resample import resize_pair, short_side_pair
from segkd.datasets._transforms import Transform
from segkd.losses._task import Task
from segkd.models._prediction import Normalize
from segkd.runner import parts
from segkd.runner.graph import Graph, Term, features_of
from segkd.runner.reading import read
from segkd.runner.recipe import Network, OtherRecipe, Ramp, Recipe
from segkd.runner.sampler import Batch, training_batches
from segkd.runner.weights import check_same_network, load_weights

NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def seed_for(seed: int, *purpose: object) -> int:
    """A seed for one purpose, so that building or drawing one thing more does not change the others."""
    return zlib.crc32(repr((seed, *purpose)).encode())


def build_dataset(recipe: Recipe, split: str) -> Dataset:
    """The recipe's data set, one split. Missing folders and lists are errors that say how the files must lie."""
    return parts.build("datasets", recipe.data.dataset, recipe.data.args, recipe.data.root, split)


def build_transform(recipe: Recipe) -> Transform:
    """The recipe's random training view."""
    return parts.build("datasets", "_transforms", recipe.data.transform, recipe.data.crop_size)


def build_training_batches(
    recipe: Recipe, train_set: Dataset, transform: Transform, accelerator: Accelerator, *, start: int
) -> Iterator[Batch]:
    """This process' endless training batches from iteration `start` on, `loop.accumulate` of them a step."""
    return training_batches(
        train_set,
        transform,
        seed=recipe.seed,
        start=start,
        batch_size=recipe.data.batch_size,
        parts=recipe.loop.accumulate,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=recipe.data.workers,
        resize=fixed_resize(recipe, scoring=False),
        pin_memory=accelerator.device.type == "cuda",
    )


def fixed_resize(recipe: Recipe, scoring: bool):
    """What brings image and label to data.resize (always) or evaluate.short_side (when scoring); None for nothing."""
    if scoring and recipe.evaluate.short_side is not None:
        return functools.partial(short_side_pair, short_side=recipe.evaluate.short_side)
    if recipe.data.resize is not None:
        return functools.partial(resize_pair, size=recipe.data.resize)
    return None


def build_network(name: str, network: Network, num_classes: int, seed: int) -> nn.Module:
    """One network, its own random start for its name, then its weights."""
    torch.manual_seed(seed_for(seed, "network", name))
    owner = f"networks.{name}"
    try:
        built = parts.build("models", network.model, network.args, num_classes)
    except (ValueError, OSError) as error:
        raise type(error)(f"{owner}: {error}") from None
    built.normalize = Normalize.named(network.normalize)
    path = weights_path(network)
    if path is not None:
        check_same_network(path, owner=owner, model=network.model, normalize=network.normalize)
        load_weights(built, path, owner=owner, strict=network.strict)
    return built


def build_networks(recipe: Recipe, num_classes: int, *, untrained: bool = False) -> dict[str, nn.Module]:
    """All networks of a recipe. `untrained` leaves those without weights whose own recipe has not been trained yet."""
    entries = dict(recipe.networks)
    for name, network in entries.items():
        if untrained and isinstance(network.weights, OtherRecipe) and not weights_are_there(network):
            entries[name] = network.model_copy(update={"weights": None})
    return {name: build_network(name, network, num_classes, recipe.seed) for name, network in entries.items()}


def rehearse(recipe: Recipe) -> None:
    """Builds everything a recipe names and throws it away, for what may be wrong with it."""
    train_set = build_dataset(recipe, recipe.data.train_split)
    build_dataset(recipe, recipe.data.val_split)
    build_transform(recipe)
    build_graph(recipe, build_networks(recipe, train_set.num_classes, untrained=True), train_set.ignore_index)


def weights_are_there(network: Network) -> bool:
    """Whether the run that a network's weights come from has delivered them."""
    return (Path(weights_path(network)) / "student" / "model.safetensors").is_file()


def weights_path(network: Network) -> str | None:
    """Where a network's weights lie: the path in the recipe, or the run folder of the recipe that trains it."""
    if isinstance(network.weights, OtherRecipe):
        return str(read(network.weights.recipe).folder)
    return network.weights


def build_graph(recipe: Recipe, networks: dict[str, nn.Module], ignore_index: int) -> Graph:
    """The recipe's terms over its networks; terms whose weight is 0 throughout are left out.

    Raises:
        ValueError: two networks of a term differ in their classes, or a loss reads a feature its network lacks.
    """
    features = {name: features_of(name, network) for name, network in networks.items()}
    terms, losses = [], {}
    for index, entry in enumerate(recipe.losses):
        weight = entry.weight.model_dump() if isinstance(entry.weight, Ramp) else entry.weight
        term = Term(entry.label, entry.of, entry.source, weight, entry.after, entry.until, entry.detach)
        student, source = networks[term.of], networks.get(term.source)
        if source is not None and source.num_classes != student.num_classes:
            raise ValueError(
                f"losses.{index} ({term.label}): networks.{term.source} has {source.num_classes} classes and "
                f"networks.{term.of} has {student.num_classes}; both must have the data set's"
            )
        if not term.is_ever_active():
            continue
        torch.manual_seed(seed_for(recipe.seed, "loss", term.label))
        task = Task(student.num_classes, ignore_index, features[term.of], features.get(term.source))
        try:
            losses[term.label] = parts.build("losses", entry.loss, entry.args, task)
        except ValueError as error:
            raise ValueError(f"losses.{index} ({term.label}): {error}") from None
        terms.append(term)
    if not terms:
        raise ValueError("losses: every term has weight 0, so there is nothing to train; give one a weight")
    idle = next((i for i in range(recipe.schedule.iterations) if not any(term.weight_at(i) for term in terms)), None)
    if idle is not None:
        raise ValueError(
            f"losses: no term is active at iteration {idle} (counted from 0), so there is nothing to train then; "
            f"change a term's after, until or weight"
        )
    for name, network in networks.items():
        network.features_wanted = features[name].wanted - {"aux"}
        network.aux_wanted = "aux" in features[name].wanted
    trained = {name: network for name, network in networks.items() if recipe.networks[name].train}
    frozen = {name: network for name, network in networks.items() if not recipe.networks[name].train}
    return Graph(trained, frozen, terms, losses)


def build_optimizer(recipe: Recipe, graph: Graph) -> torch.optim.Optimizer:
    """One optimizer over all trained parameters; a group's `lr_scale` is its factor on the scheduled rate."""
    settings = recipe.optimizer
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for owner, module in [*graph.networks.items(), (None, graph.losses)]:
        exempt = _not_decayed(module, settings.no_decay)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            scale = recipe.networks[owner].lr_scale if owner else 1.0
            scale *= 1.0 if name.startswith("backbone.") else settings.head_lr_scale
            decay = 0.0 if name in exempt else settings.weight_decay
            groups.setdefault((scale, decay), []).append(parameter)
    described = [
        {"params": parameters, "lr": settings.lr * scale, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    if settings.name == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return torch.optim.SGD(described, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.name]
    return kind(described, lr=settings.lr, betas=settings.betas)


def _not_decayed(module: nn.Module, words: list[str]) -> set[str]:
    """Names of the parameters free of weight decay: by words in their names; `norm` and `bias` by what they are."""
    names = {name for name, _ in module.named_parameters() if any(word in name for word in words)}
    if "norm" in words:
        names |= {
            f"{prefix}.{name}" if prefix else name
            for prefix, part in module.named_modules()
            if isinstance(part, NORMALISATION)
            for name, _ in part.named_parameters(recurse=False)
        }
    return names
