"""Builds what a recipe names: data sets, networks, losses, graph and optimizer. Each is drawn from its own seed."""

import functools
from collections.abc import Iterator
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from segkd.datasets._parts_of_a_set import Chosen, ImagesBelow, WithoutLabels, labelled_indices
from segkd.datasets._resample import fitted_pair, resize_pair, short_side_pair
from segkd.losses._task import Features, Task
from segkd.runner import parts
from segkd.runner.batch import Batch
from segkd.runner.graph import Graph, Term, features_of
from segkd.runner.networks import build_networks, gives_scores
from segkd.runner.recipe import Ramp, Recipe
from segkd.runner.recipe import Term as TermEntry
from segkd.runner.sampler import images_per_part, training_batches
from segkd.runner.seeds import seed_for


def build_dataset(recipe: Recipe, split: str) -> Dataset:
    """The recipe's data set, one split. Missing folders and lists are errors that say how the files must lie."""
    return parts.build("datasets", recipe.data.dataset, recipe.data.args, recipe.data.root, split)


def build_training_sets(recipe: Recipe) -> tuple[Dataset, Dataset | None]:
    """The training images with labels, and those without, None where the recipe has no such stream.

    Raises:
        ValueError: data.labelled leaves no image for the stream of unlabelled ones.
    """
    data, whole = recipe.data, build_dataset(recipe, recipe.data.train_split)
    labelled, rest = whole, []
    if data.labelled is not None:
        chosen = labelled_indices(whole, data.labelled, data.dataset, seed_for(recipe.seed, "labelled"))
        labelled, rest = Chosen(whole, chosen), sorted(set(range(len(whole))) - set(chosen))
    if data.unlabelled is None:
        return labelled, None
    if data.unlabelled.images is not None:
        return labelled, ImagesBelow(data.unlabelled.images)
    if not rest:
        raise ValueError(
            "data.unlabelled: every training image is labelled; say which are with data.labelled (such as 1/8), or "
            "name a folder of others with data.unlabelled.images"
        )
    return labelled, WithoutLabels(Chosen(whole, rest))


def build_views(recipe: Recipe) -> tuple[dict, dict]:
    """What makes random views of labelled images and of unlabelled ones: transform, mix and strong view."""
    data = recipe.data

    def built(name: str, settings: dict | None, *given: object) -> object:
        return None if settings is None else parts.build("datasets", name, settings, *given)

    labelled = {
        "transform": built("_transforms", data.transform, data.crop_size),
        "mix": built("_mixing", data.mix),
    }
    if data.unlabelled is None:
        return labelled, {}
    return labelled, {
        "transform": built("_transforms", data.unlabelled.transform, data.crop_size),
        "strong": built("_strong", data.unlabelled.strong),
    }


def build_training_batches(
    recipe: Recipe,
    train_set: Dataset,
    unlabelled_set: Dataset | None,
    views: tuple[dict, dict],
    accelerator: Accelerator,
    *,
    start: int,
) -> Iterator[Batch]:
    """This process' endless training batches from iteration `start` on, `loop.accumulate` of them a step.

    With an unlabelled set each carries the batch of that stream that belongs to it. `views` are those of build_views.
    """
    shared = {
        "start": start,
        "parts": recipe.loop.accumulate,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
        "workers": recipe.data.workers,
        "resize": fixed_resize(recipe, scoring=False),
        "pin_memory": accelerator.device.type == "cuda",
    }
    labelled = training_batches(train_set, seed=recipe.seed, batch_size=recipe.data.batch_size, **views[0], **shared)
    if unlabelled_set is None:
        return labelled
    settings = recipe.data.unlabelled
    images_per_part(settings.batch_size, shared["parts"], shared["world"], "data.unlabelled.batch_size")
    others = training_batches(
        unlabelled_set,
        seed=seed_for(recipe.seed, "unlabelled"),
        batch_size=settings.batch_size,
        **views[1],
        **shared,
    )
    return (replace(batch, unlabelled=other) for batch, other in zip(labelled, others))


def fixed_resize(recipe: Recipe, scoring: bool):
    """What resizes image and label as data.resize says, or when scoring evaluate.short_side or fit; None: nothing."""
    if scoring and recipe.evaluate.short_side is not None:
        return functools.partial(short_side_pair, short_side=recipe.evaluate.short_side)
    if scoring and recipe.evaluate.fit is not None:
        return functools.partial(fitted_pair, size=recipe.evaluate.fit)
    if recipe.data.resize is not None:
        return functools.partial(resize_pair, size=recipe.data.resize)
    return None


def rehearse(recipe: Recipe) -> None:
    """Builds everything a recipe names and throws it away, for what may be wrong with it."""
    train_set, _ = build_training_sets(recipe)
    build_dataset(recipe, recipe.data.val_split)
    build_views(recipe)
    build_graph(recipe, build_networks(recipe, train_set, untrained=True), train_set.ignore_index)


def trains(term: Term | TermEntry, name: str) -> bool:
    """Whether a term gives a network gradients."""
    return term.of == name or (term.source == name and not term.detach)


def refuse_untrained(recipe: Recipe) -> None:
    """ValueError for a network to be trained that no term trains: it would stay as it is but for its statistics."""
    for name, network in recipe.networks.items():
        if network.train and not any(trains(term, name) for term in recipe.losses):
            raise ValueError(
                f"networks.{name}: no term trains it; write train: false to use it as it is, or give it a term with "
                f"of: {name}"
            )


def refuse_other_classes(term: Term, networks: dict[str, nn.Module]) -> None:
    """ValueError for a term between networks of different class counts."""
    student, source = networks[term.of], networks.get(term.source)
    if source is not None and source.num_classes != student.num_classes:
        raise ValueError(
            f"networks.{term.source} has {source.num_classes} classes and networks.{term.of} has "
            f"{student.num_classes}; both must have the data set's (class_map says which of its classes are which)"
        )


def build_loss(
    entry: TermEntry, term: Term, networks: dict[str, nn.Module], features: dict[str, Features], ignore_index: int
) -> nn.Module:
    """The loss of a term, for the sizes of its networks; notes in `features` what it asks them for.

    Raises:
        ValueError: an argument or a feature that is not there, or one that its source cannot give in this place.
    """
    source = networks.get(term.source)
    # a table of its own shows what this loss asks for
    theirs = None if source is None else features_of(term.source, source)
    task = Task(networks[term.of].num_classes, ignore_index, features[term.of], theirs)
    loss = parts.build("losses", entry.loss, entry.args, task)
    if theirs is None:
        return loss
    if term.on == "strong" and theirs.wanted:
        raise ValueError(
            f"with on: strong only the scores of networks.{term.source} can be read, not "
            f"{', '.join(sorted(theirs.wanted))}; use on: unlabelled"
        )
    if not gives_scores(source) and not theirs.wanted:
        raise ValueError(
            f"networks.{term.source} has no head, so no scores for {entry.loss} to read; give it one, or use a loss of "
            f"features ({', '.join(theirs.channels)})"
        )
    features[term.source].wanted.update(theirs.wanted)
    return loss


def build_graph(recipe: Recipe, networks: dict[str, nn.Module], ignore_index: int) -> Graph:
    """The recipe's terms over its networks; terms whose weight is 0 throughout are left out.

    Raises:
        ValueError: two networks of a term differ in their classes, or a loss reads a feature its network lacks.
    """
    followed = {name: network.ema_of for name, network in recipe.networks.items() if network.ema_of is not None}
    networks = networks | {name: networks[other] for name, other in followed.items()}
    features = {name: features_of(name, network) for name, network in networks.items()}
    terms, losses = [], {}
    for index, entry in enumerate(recipe.losses):
        weight = entry.weight.model_dump() if isinstance(entry.weight, Ramp) else entry.weight
        term = Term(entry.label, entry.of, entry.source, weight, entry.after, entry.until, entry.detach, entry.on)
        try:
            refuse_other_classes(term, networks)
            if term.is_ever_active():
                torch.manual_seed(seed_for(recipe.seed, "loss", term.label))
                losses[term.label] = build_loss(entry, term, networks, features, ignore_index)
                terms.append(term)
        except ValueError as error:
            raise ValueError(f"losses.{index} ({term.label}): {error}") from None
    if not terms:
        raise ValueError("losses: every term has weight 0, so there is nothing to train; give one a weight")
    refuse_untrained(recipe)
    coming_and_going = all(isinstance(term.weight, dict) or (term.after, term.until) != (None, None) for term in terms)
    looked_at = range(recipe.schedule.iterations if coming_and_going else 0)  # no need where one term is always there
    idle = next((i for i in looked_at if not any(term.weight_at(i) for term in terms)), None)
    if idle is not None:
        raise ValueError(
            f"losses: no term is active at iteration {idle} (counted from 0), so there is nothing to train then; "
            f"change a term's after, until or weight"
        )
    trained = {name: network for name, network in networks.items() if recipe.networks[name].train}
    for name, network in trained.items():
        if not any(trains(term, name) for term in terms):
            network.requires_grad_(False)  # all its terms have weight 0: several processes would wait for its gradients
    frozen = {name: networks[name] for name in networks if name not in trained and name not in followed}
    graph = Graph(
        trained,
        frozen,
        terms,
        losses,
        prompted_by={name: entry.prompted_by for name, entry in recipe.networks.items() if entry.prompted_by},
        averages={name: (other, recipe.networks[name].ema_decay) for name, other in followed.items()},
    )
    for name, table in features.items():
        graph.network(name).features_wanted = table.wanted - {"aux"}
        graph.network(name).aux_wanted = "aux" in table.wanted
    return graph
