"""A recipe's loss terms over its networks, each drawn from its own seed, and the graph they make."""

import torch
from torch import nn

from segkd.losses._task import Features, Task
from segkd.runner.building.graph import Graph, Term, features_of
from segkd.runner.building.networks import build_networks, gives_scores
from segkd.runner.loading.data_sets import build_dataset, build_training_sets, build_views
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Ramp, Recipe
from segkd.runner.recipe.schema import Term as TermEntry
from segkd.runner.recipe.seeds import seed_for


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
