"""Reads a recipe file and checks it against the schema, the parts it names and itself: all its mistakes in one pass."""

import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pydantic

from segkd.runner.recipe import parts
from segkd.runner.recipe.addresses import Source, find_source, wrong_from_elsewhere
from segkd.runner.recipe.mistakes import Mistake, RecipeError, did_you_mean, found_by, located
from segkd.runner.recipe.protocols import change_protocol, fixed_by, protocol_in, wrong_fields
from segkd.runner.recipe.schema import Data, Network, OtherRecipe, Ramp, Recipe, Term
from segkd.runner.recipe.yaml_file import Key, override, read_with_traps


def read(path: str | Path, assignments: Iterable[str] = (), *, trust_checkpoint: bool = False) -> Recipe:
    """Reads, merges, overrides and checks a recipe. RecipeError lists every mistake and what is allowed.

    Args:
        path: of a file, or an address (runner/recipe/addresses.py).
        trust_checkpoint: weights files that could start code are read all the same.
    """
    source = find_source(path)
    values, origins, traps = read_with_traps(source.path, source.root)
    before = protocol_in(values)
    override(values, origins, list(assignments))
    change_protocol(values, origins, before)
    recipe, mistakes = _validated(values)
    mistakes += _wrong_parts(values)
    if recipe is None:  # what is left without the mistakes may show more of them
        recipe, _ = _validated(_without(values, [key for key, _ in mistakes]))
    if recipe is not None:
        mistakes += _wrong_relations(recipe) + wrong_from_elsewhere(recipe, source, origins)
    if mistakes or traps:
        lines = located(mistakes, origins, str(source.path))
        told = traps + [line for line in lines if not _told(line, traps)]
        raise RecipeError([source.named(line) for line in told])
    completed = _completed(recipe, source)
    completed._trust_checkpoint = trust_checkpoint
    return completed


def _told(line: str, traps: list[str]) -> bool:
    """Whether a mistake stands where a trap was found: a value that could not be read is wrong in other ways too."""
    return any(line.split(": ")[:2] == trap.split(": ")[:2] for trap in traps)


def _validated(values: dict) -> tuple[Recipe | None, list[Mistake]]:
    try:
        return Recipe.model_validate_json(json.dumps(values)), []
    except pydantic.ValidationError as error:
        return None, found_by(error, Recipe)


def _without(values: dict, keys: list[Key]) -> dict:
    """The values less what stands at the keys."""
    values = copy.deepcopy(values)
    for *outer, last in keys:
        place: object = values
        for word in outer:
            place = place.get(word) if isinstance(place, dict) else place[word] if isinstance(place, list) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return values


def _parts_of(values: dict) -> Iterator[tuple[Key, Key, str, object, object]]:
    """(path of name, path of arguments, room, name, arguments) of each part a recipe names, however broken it is."""
    data = values.get("data")
    if isinstance(data, dict):
        yield ("data", "dataset"), ("data", "args"), "datasets", data.get("dataset"), data.get("args", {})
        yield ("data",), ("data", "transform"), "datasets", "_transforms", data.get("transform", {})
        yield ("data",), ("data", "mix"), "datasets", "_mixing", data.get("mix")
        other = data.get("unlabelled")
        if isinstance(other, dict):
            yield ("data",), ("data", "unlabelled", "transform"), "datasets", "_transforms", other.get("transform")
            yield ("data",), ("data", "unlabelled", "strong"), "datasets", "_strong", other.get("strong")
    networks, losses = values.get("networks"), values.get("losses")
    for name, network in networks.items() if isinstance(networks, dict) else ():
        if isinstance(network, dict):
            here = ("networks", name)
            model, arguments = network.get("model"), network.get("args", {})
            if isinstance(model, str) and isinstance(arguments, dict):
                model, arguments = parts.network_part(network.get("source", "segkd"), model, arguments)
            yield (*here, "model"), (*here, "args"), "models", model, arguments
    for index, term in enumerate(losses if isinstance(losses, list) else ()):
        if isinstance(term, dict):
            here = ("losses", index)
            yield (*here, "loss"), (*here, "args"), "losses", term.get("loss"), term.get("args", {})


def _wrong_parts(values: dict) -> list[Mistake]:
    """Unknown names of parts, and arguments that do not fit their signatures."""
    mistakes: list[Mistake] = []
    for name_key, arguments_key, room, name, arguments in _parts_of(values):
        if not isinstance(name, str) or not isinstance(arguments, dict):
            continue  # the schema has said so already
        if name not in parts.names(room) and not (name in parts.UNNAMED and name_key == ("data",)):
            there = parts.names(room)
            mistakes.append(
                (name_key, f"no {room}/{name}.py{did_you_mean(name, there)}; there are: {', '.join(there)}")
            )
            continue
        mistakes += [((*arguments_key, *key), text) for key, text in parts.wrong_arguments(room, name, arguments)]
    return mistakes


def _wrong_relations(recipe: Recipe) -> list[Mistake]:
    """Names that do not refer to anything, and sections that contradict each other."""
    mistakes: list[Mistake] = []
    networks = ", ".join(recipe.networks)
    if "student" not in recipe.networks:
        mistakes.append((("networks",), f"one network must be called student; there are: {networks}"))
    labels: set[str] = set()
    mistakes += _wrong_networks(recipe)
    mistakes += wrong_fields(recipe)
    for index, term in enumerate(recipe.losses):
        here: Key = ("losses", index)
        if term.on != "labelled":
            mistakes += [((*here, "on"), text) for text in _wrong_views(recipe, term)]
        for key, name in (("of", term.of), ("from", term.source)):
            if name is not None and name not in recipe.networks:
                mistakes.append(
                    (
                        (*here, key),
                        f"there is no network {name!r}{did_you_mean(name, list(recipe.networks))}; "
                        f"there are: {networks}",
                    )
                )
        if term.of in recipe.networks and not recipe.networks[term.of].train:
            mistakes.append(((*here, "of"), f"{term.of} is frozen (train: false), so no loss can train it"))
        if isinstance(term.weight, Ramp) and term.weight.over[0] >= term.weight.over[1]:
            mistakes.append(
                (
                    (*here, "weight", "over"),
                    f"the last iteration must come after the first; got {list(term.weight.over)}",
                )
            )
        if term.source == term.of:
            mistakes.append(((*here, "from"), f"{term.of} cannot learn from itself"))
        if term.loss in parts.names("losses") and parts.needs_teacher(term.loss) and recipe.source_of(term) is None:
            mistakes.append(
                (here, f"{term.loss} learns from another network; name it with from: (there are: {networks})")
            )
        if (term.label or term.loss) in labels:
            mistakes.append((here, f"two terms are called {term.label or term.loss!r} in the log; give one a label:"))
        labels.add(term.label or term.loss)
    for index, words in enumerate(recipe.evaluate.also):
        for name in words.split("+"):
            if name not in recipe.networks:
                here = ("evaluate", "also", index)
                mistakes.append((here, f"there is no network {name!r}; there are: {networks} (joined by +)"))
    if recipe.schedule.name == "step" and recipe.schedule.drop_every is None:
        mistakes.append((("schedule", "drop_every"), "is missing; name: step needs the iterations between two drops"))
    batches = {"data.batch_size": recipe.data.batch_size}
    if recipe.data.unlabelled is not None and recipe.data.unlabelled.batch_size is not None:
        batches["data.unlabelled.batch_size"] = recipe.data.unlabelled.batch_size
    for field, batch_size in batches.items():
        if batch_size % recipe.loop.accumulate:
            text = f"{recipe.loop.accumulate} parts do not divide {field}, which is {batch_size} in total"
            mistakes.append((("loop", "accumulate"), text))
    return mistakes


def _wrong_networks(recipe: Recipe) -> Iterator[Mistake]:
    """Networks that name no model, or refer to others that cannot serve them."""
    for name, network in recipe.networks.items():
        here: Key = ("networks", name)
        if (network.model is None) == (network.ema_of is None):
            yield here, "must name either a model: or the network it is the moving average of, ema_of:"
        for key, other in (("prompted_by", network.prompted_by), ("ema_of", network.ema_of)):
            if other is not None and (other not in recipe.networks or other == name):
                others = [known for known in recipe.networks if known != name]
                yield (
                    (*here, key),
                    f"there is no other network {other!r}{did_you_mean(other, others)}; there are: {', '.join(others)}",
                )
        if network.ema_of in recipe.networks and not recipe.networks[network.ema_of].train:
            yield (*here, "ema_of"), f"{network.ema_of} is frozen (train: false), so its average never moves"
        if network.ema_of is not None and network.train:
            yield (*here, "train"), "a moving average is not trained by losses; write train: false"
        if network.prompted_by in recipe.networks and recipe.networks[network.prompted_by].prompted_by is not None:
            yield (*here, "prompted_by"), f"{network.prompted_by} is prompted itself; prompts go one step only"
        if name == "student" and network.class_map is not None:
            text = "the student is delivered with the data set's own classes; a class map is for who it learns from"
            yield (*here, "class_map"), text
        if network.checkpointing and not network.train:
            yield (*here, "checkpointing"), f"{name} is not trained, so it keeps nothing for backward; leave it out"
        if network.checkpointing and recipe.loop.compile:
            yield (*here, "checkpointing"), "does not go with loop.compile; leave one of them out"
        if network.train == "lora" and network.model != "sam":
            yield (*here, "train"), "lora is for model: sam; other networks are trained whole (true) or frozen (false)"


def _wrong_views(recipe: Recipe, term: Term) -> Iterator[str]:
    """What a term on unlabelled images lacks."""
    if recipe.data.unlabelled is None:
        yield f"{term.on} needs unlabelled images; add data.unlabelled, and data.labelled to leave some over for it"
    elif term.on == "strong" and recipe.data.unlabelled.strong is None:
        yield "strong views are not made; add data.unlabelled.strong ({} for its defaults)"
    if term.loss in parts.names("losses") and parts.needs_labels(term.loss):
        yield f"{term.loss} reads labels, which these images do not have; only on: labelled"


def _completed(recipe: Recipe, source: Source) -> Recipe:
    """The recipe with the parts' own defaults written out and the paths of other recipes relative to here."""

    def other(value):
        return OtherRecipe(recipe=source.other(value.recipe)) if isinstance(value, OtherRecipe) else value

    networks = {
        name: network.model_copy(update={"args": _completed_network(network), "weights": other(network.weights)})
        for name, network in recipe.networks.items()
    }
    losses = [
        term.model_copy(
            update={
                "args": parts.completed_arguments("losses", term.loss, term.args),
                "source": recipe.source_of(term) if parts.needs_teacher(term.loss) else term.source,
                "label": term.label or term.loss,
            }
        )
        for term in recipe.losses
    ]
    return recipe.model_copy(
        update={
            "data": _completed_data(recipe.data),
            "networks": networks,
            "losses": losses,
            "evaluate": recipe.evaluate.model_copy(update=fixed_by(recipe)),
            "baseline": other(recipe.baseline),
        }
    )


def _completed_data(data: Data) -> Data:
    """The section with the defaults of the data set and of the views written out."""

    def completed(name: str, arguments: dict | None) -> dict | None:
        return None if arguments is None else parts.completed_arguments("datasets", name, arguments)

    transform = completed("_transforms", data.transform)
    unlabelled = data.unlabelled
    if unlabelled is not None:
        own = transform if unlabelled.transform is None else completed("_transforms", unlabelled.transform)
        unlabelled = unlabelled.model_copy(
            update={
                "transform": own,
                "strong": completed("_strong", unlabelled.strong),
                "batch_size": unlabelled.batch_size or data.batch_size,
            }
        )
    return data.model_copy(
        update={
            "args": completed(data.dataset, data.args),
            "transform": transform,
            "mix": completed("_mixing", data.mix),
            "unlabelled": unlabelled,
        }
    )


def _completed_network(network: Network) -> dict:
    """The arguments of a network with its defaults written out; what `source` and `model` say stays with them."""
    if network.model is None:
        return {}
    arguments = network.args
    if network.train == "lora":
        arguments = {"lora_rank": 4, **arguments}
    file, given = parts.network_part(network.source, network.model, arguments)
    completed = parts.completed_arguments("models", file, given)
    if network.source == "hf":
        del completed["name"]
    if network.source == "timm":
        completed = {"head": file, **{key: value for key, value in completed.items() if key != "backbone"}}
    return completed
