"""A recipe's loss terms over its networks, each drawn from its own seed, and the graph they make."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from segkd.losses._class_weights import is_rule
from segkd.losses._task import Features, LabelCounts, Task
from segkd.runner.building.cached import open_caches
from segkd.runner.building.graph import Graph, features_of
from segkd.runner.building.networks import blaming, build_networks
from segkd.runner.console import printable
from segkd.runner.loading.data_sets import build_training_sets, build_val_set, build_views
from segkd.runner.loading.first_look import look_at_data
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.seeds import seed_for
from segkd.runner.recipe.term import Ramp, Term


def rehearse(recipe: Recipe, accelerator: Accelerator) -> tuple[Graph, tuple[Dataset, Dataset | None, Dataset]]:
    """Builds everything a recipe names, for what may be wrong with it.

    Returns:
        a graph to be thrown away, with random weights where a network is to be trained first; the images to train on
        with labels and without, and those to score.
    """
    train_set, unlabelled_set = build_training_sets(recipe)
    val_set = build_val_set(recipe)
    look_at_data(recipe, train_set, unlabelled_set, val_set)
    build_views(recipe)
    graph = build_graph(recipe, build_networks(recipe, train_set, untrained=True), train_set.ignore_index)
    open_caches(recipe, graph, {"labelled": train_set, "unlabelled": unlabelled_set}, accelerator, tells=False)
    return graph, (train_set, unlabelled_set, val_set)


def build_loss(
    term: Term,
    networks: dict[str, nn.Module],
    features: dict[str, Features],
    ignore_index: int,
    label_counts: Callable[[], LabelCounts] | None = None,
) -> nn.Module:
    """The loss of a term, for the sizes of its networks; notes in `features` what it asks them for.

    Raises:
        ValueError: a feature that is not there, or one that its source cannot give in this place.
    """
    source = networks.get(term.source)
    # a table of its own shows what this loss asks for
    theirs = None if source is None else features_of(term.source, source)
    learner = networks[term.of]
    ours = features_of(term.of, learner)
    task = Task(learner.num_classes, ignore_index, ours, theirs, label_counts)
    loss = parts.build("losses", term.loss, term.args, task)
    features[term.of].wanted.update(ours.wanted)
    features[term.of].named_scores.update(ours.scores)
    if not learner.gives_logits and not ours.wanted:
        raise ValueError(
            f"networks.{term.of} has no head, so no scores for {term.loss} to train; give it one, or use a loss of "
            f"features ({', '.join(ours.channels)})"
        )
    if theirs is None:
        return loss
    if term.on == "strong" and theirs.wanted:
        raise ValueError(
            f"with on: strong only the scores of networks.{term.source} can be read, not "
            f"{', '.join(sorted(theirs.wanted))}; use on: unlabelled"
        )
    if not source.gives_logits and (not theirs.wanted or "logits" in theirs.scores):
        raise ValueError(
            f"networks.{term.source} has no head, so no scores for {term.loss} to read; give it one, or use a loss of "
            f"features ({', '.join(theirs.channels)})"
        )
    features[term.source].wanted.update(theirs.wanted)
    if not term.detach:
        features[term.source].named_scores.update(theirs.scores)
    return loss


def build_graph(
    recipe: Recipe,
    networks: dict[str, nn.Module],
    ignore_index: int,
    label_counts: Callable[[], LabelCounts] | None = None,
) -> Graph:
    """The recipe's terms over its networks; terms whose weight is 0 throughout are left out.

    Args:
        label_counts: gives those of the training labels, for losses that ask; None: what follows from them is 1.

    Raises:
        ValueError: two networks of a term differ in their classes, or a loss reads a feature its network lacks.
    """
    followed = {name: network.ema_of for name, network in recipe.networks.items() if network.ema_of is not None}
    networks = networks | {name: networks[other] for name, other in followed.items()}
    features = {name: features_of(name, network) for name, network in networks.items()}
    losses = {}
    for index, term in enumerate(recipe.losses):
        with blaming(f"losses.{index} ({term.label}): "):
            both = [name for name in (term.of, term.source) if name is not None and networks[name].gives_logits]
            classes = {name: networks[name].num_classes for name in both}
            if len({*classes.values()}) > 1:
                raise ValueError(
                    f"networks.{term.source} has {classes[term.source]} classes and networks.{term.of} has "
                    f"{classes[term.of]}; both must have the data set's (class_map says which of its classes are which)"
                )
            if term.is_ever_active:
                torch.manual_seed(seed_for(recipe.seed, "loss", term.label))
                losses[term.label] = build_loss(term, networks, features, ignore_index, label_counts)
    terms = [term for term in recipe.losses if term.label in losses]
    trained = {name: network for name, network in networks.items() if recipe.networks[name].train}
    for name, network in trained.items():
        if not any(term.trains(name) for term in terms):
            network.requires_grad_(False)  # all its terms have weight 0: several processes would wait for its gradients
    frozen = {name: networks[name] for name in networks if name not in trained and name not in followed}
    graph = Graph(
        trained,
        frozen,
        terms,
        losses,
        prompted_by={name: entry.prompted_by for name, entry in recipe.networks.items() if entry.prompted_by},
        averages={name: (other, recipe.networks[name].ema_decay) for name, other in followed.items()},
        supervised=frozenset(term.label for term in terms if parts.needs_labels(term.loss)),
        extra_weight=1.0 if recipe.data.extra is None else recipe.data.extra.weight,
        ignore_index=ignore_index,
    )
    graph.wanted = {name: table.wanted for name, table in features.items()}
    for name, table in features.items():
        graph.network(name).features_wanted = table.wanted - {"aux"}
        graph.network(name).aux_wanted = "aux" in table.wanted
    for name, network in trained.items():
        if any(term.trains(name) for term in terms):
            graph.unread[name] = leave_out_unread(network, features[name])
    return graph


def leave_out_unread(network: nn.Module, features: Features) -> list[str]:
    """The scores of a trained network that no term reads. Its heads for training alone whose map nobody wants freeze.

    Several processes would wait for gradients of both. What makes scores is left in the optimizer, which does nothing
    without a gradient: checkpoints keep their form whatever the terms read.
    """
    for feature, head in network.own_heads.items():
        if feature != "aux" and feature not in features.wanted:
            network.get_submodule(head).requires_grad_(False)
    made = {"logits": network.gives_logits, "aux": network.has_aux}
    return [name for name, is_made in made.items() if is_made and name not in features.named_scores]


def told_unread_scores(graph: Graph) -> list[str]:
    """A line for each trained network with scores that no term reads."""
    words = {"logits": "its scores", "aux": "its auxiliary scores"}
    return [
        f"{name}: no term reads {' and '.join(words[one] for one in unread)}; what makes nothing else does not learn"
        for name, unread in graph.unread.items()
        if unread
    ]


def told_weights(graph: Graph, iterations: int) -> list[str]:
    """A line for each term that a training of so many iterations never sees, or whose weight is still to change."""
    lines = []
    for term in graph.terms:
        if not term.is_active_in(iterations):
            lines.append(f"{term.label}: is active in none of the {iterations} iterations")
        elif isinstance(term.weight, Ramp) and term.weight_at(iterations - 1) not in (0.0, term.weight.end):
            now, (_, last) = term.weight_at(iterations - 1), term.weight.over
            if last > iterations:
                lines.append(
                    f"{term.label}: its weight is {now:.3g} at the end of {iterations} iterations; "
                    f"{term.weight.end:g} would come at {last}"
                )
    return lines


def told_class_weights(graph: Graph, class_names: Sequence[str]) -> list[str]:
    """A line for each term whose class weights follow from the training labels."""
    lines = []
    for term in graph.terms:
        rule = term.args.get("class_weights")
        if is_rule(rule):
            weights = graph.losses[term.label].class_weights.tolist()
            shown = ", ".join(f"{printable(name)} {weight:.3g}" for name, weight in zip(class_names, weights))
            lines.append(f"{term.label}: class weights by {'median_frequency' if rule == 'auto' else rule}: {shown}")
    return lines
