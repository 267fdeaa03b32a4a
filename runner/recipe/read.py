"""Reads a recipe file and checks it against the schema, the parts it names and itself: all its mistakes in one pass."""

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pydantic

from segkd.runner.recipe import parts
from segkd.runner.recipe.addresses import Source, by_hand, find_source, wrong_from_elsewhere
from segkd.runner.recipe.mistakes import Mistake, RecipeError, did_you_mean, found_by, located
from segkd.runner.recipe.protocols import change_protocol, fixed_by, protocol_in, wrong_fields
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.recipe.yaml_file import Key, expanded, override, read_with_traps

# where a recipe names files and folders
PATHS: tuple[Key, ...] = (
    ("data", "root"),
    ("data", "args", "*"),
    ("data", "labelled"),
    ("data", "unlabelled", "images"),
    ("networks", "*", "model"),
    ("networks", "*", "weights"),
    ("networks", "*", "weights", "recipe"),
    ("networks", "*", "args", "backbone_weights"),
    ("baseline", "recipe"),
    ("tracking", "folder"),
)

# what an assignment says of the place a run is made in, and not of the experiment; data.root, where it is the same data
OF_THE_PLACE = ("data.workers", "loop.timeout", "evaluate.batch_size", "tracking.wandb", "tracking.project",
                "tracking.images", "tracking.every", "tracking.gradients")  # fmt: skip


def read(path: str | Path, assignments: Iterable[str] = (), *, trust_checkpoint: bool = False) -> Recipe:
    """Reads, merges, overrides and checks a recipe. RecipeError lists every mistake and what is allowed.

    Args:
        path: of a file, or an address (runner/recipe/addresses.py).
        trust_checkpoint: weights files that could start code are read all the same.
    """
    source, assignments = find_source(path), list(assignments)
    values, origins, traps = read_with_traps(source.path, source.root)
    before = protocol_in(values)
    _name_metrics(values)
    override(values, origins, assignments)
    _name_metrics(values)
    change_protocol(values, origins, before)
    values.setdefault("name", source.default_name)
    for path in PATHS:  # a stranger's recipe learns nothing of this machine
        _expand(values, path, lambda key: source.root is None or by_hand(origins, key))
    recipe, mistakes = _validated(values)
    mistakes += _wrong_parts(values)
    if recipe is None:  # what is left without the mistakes may show more of them
        recipe, _ = _validated(_without(values, [key for key, _ in mistakes]))
    if recipe is not None:
        mistakes += [*recipe.wrong(), *wrong_fields(recipe), *wrong_from_elsewhere(recipe, source, origins)]
    if mistakes or traps:
        lines = located(mistakes, origins, str(source.path))
        told = traps + [line for line in lines if not _told(line, traps)]
        raise RecipeError([source.named(line) for line in told])
    completed = _with_paths(recipe.complete(), source)
    completed = completed.model_copy(update={"evaluate": completed.evaluate.model_copy(update=fixed_by(recipe))})
    completed._trust_checkpoint, completed._assignments = trust_checkpoint, tuple(assignments)
    return completed


def read_other(recipe: Recipe, other: OtherRecipe) -> Recipe:
    """A recipe that another one names, with what the command line said of the place, where both run."""
    word = {assignment.partition("=")[0]: assignment for assignment in recipe.assignments}
    of_the_place = [assignment for key, assignment in word.items() if key.startswith(OF_THE_PLACE)]
    found = read(other.recipe, of_the_place, trust_checkpoint=recipe.trust_checkpoint)
    if "data.root" in word and found.data.dataset == recipe.data.dataset:
        return read(other.recipe, [*of_the_place, word["data.root"]], trust_checkpoint=recipe.trust_checkpoint)
    return found


def read_needed(recipe: Recipe, is_done: Callable[[Recipe], bool], above: tuple[Recipe, ...] = ()) -> list[Recipe]:
    """The recipes to be trained before this one, each after what it needs itself.

    Args:
        is_done: whether a recipe's run is there already; then nobody asks what it needed.
        above: the recipes that asked for this one.

    Raises:
        ValueError: recipes that need each other.
    """
    above = (*above, recipe)
    needed: dict[Path, Recipe] = {}
    for entry in recipe.others:
        other = read_other(recipe, entry)
        if other.folder in [asking.folder for asking in above]:
            circle = " -> ".join(str(one.folder) for one in (*above, other))
            raise ValueError(f"each of these runs needs the next one first, in a circle: {circle}")
        if other.folder not in needed and not is_done(other):
            needed |= {one.folder: one for one in read_needed(other, is_done, above)}
            needed[other.folder] = other
    return list(needed.values())


def _name_metrics(values: dict) -> None:
    """Makes the list `metrics: [boundary]` a mapping to arguments in place, so that each can be set or overridden."""
    section = values.get("evaluate")
    listed = section.get("metrics") if isinstance(section, dict) else None
    if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
        section["metrics"] = {name: {} for name in listed}


def _expand(place: object, path: Key, may: Callable[[Key], bool], above: Key = ()) -> None:
    """Expands the paths of files at the end of a path of keys, in place."""
    word, *rest = path
    for key in (list(place) if word == "*" else [word]) if isinstance(place, dict) else ():
        value, here = place.get(key), (*above, key)
        if rest:
            _expand(value, tuple(rest), may, here)
        elif isinstance(value, str) and may(here):
            place[key] = expanded(value)


def _told(line: str, traps: list[str]) -> bool:
    """Whether this line only repeats a trap: a value that could not be read is wrong in other ways too."""
    return any(line.split(": ")[:2] == trap.split(": ")[:2] for trap in traps)


def _validated(values: dict) -> tuple[Recipe | None, list[Mistake]]:
    try:
        return Recipe.model_validate_json(json.dumps(values)), []
    except pydantic.ValidationError as error:
        return None, found_by(error, Recipe, values)


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
    scoring = values.get("evaluate")
    metrics = scoring.get("metrics") if isinstance(scoring, dict) else None
    for name, arguments in metrics.items() if isinstance(metrics, dict) else ():
        here = ("evaluate", "metrics", name)
        yield here, here, parts.METRICS, name, arguments


def _wrong_parts(values: dict) -> list[Mistake]:
    """Unknown names of parts, and arguments that do not fit their signatures."""
    mistakes: list[Mistake] = []
    for name_key, arguments_key, room, name, arguments in _parts_of(values):
        if not isinstance(name, str) or not isinstance(arguments, dict):
            continue  # the schema has said so already
        if name not in parts.names(room) and not (name in parts.UNNAMED and name_key == ("data",)):
            there = parts.names(room)
            mistakes.append(
                (name_key, f"no {parts.path_of(room, name)}{did_you_mean(name, there)}; there are: {', '.join(there)}")
            )
            continue
        mistakes += [((*arguments_key, *key), text) for key, text in parts.wrong_arguments(room, name, arguments)]
    return mistakes


def _with_paths(recipe: Recipe, source: Source) -> Recipe:
    """The recipe with the paths of other recipes relative to the working directory, not to where it lies."""

    def other(value):
        return OtherRecipe(recipe=source.other(value.recipe)) if isinstance(value, OtherRecipe) else value

    networks = {
        name: network.model_copy(update={"weights": other(network.weights)})
        for name, network in recipe.networks.items()
    }
    return recipe.model_copy(update={"networks": networks, "baseline": other(recipe.baseline)})
