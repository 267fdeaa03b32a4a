"""Reads a recipe file and checks it against the schema, the parts it names and itself: all its mistakes in one pass."""

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pydantic

from segkd.runner.recipe import parts
from segkd.runner.recipe.addresses import Source, find_source, wrong_from_elsewhere
from segkd.runner.recipe.kinds import RECIPE, refuse_other_kind
from segkd.runner.recipe.mistakes import Key, Mistake, Origins, RecipeError, did_you_mean, found_by, located
from segkd.runner.recipe.protocols import change_protocol, fixed_by, protocol_in, wrong_fields
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.recipe.told_by_weights import Told, fill, told_by
from segkd.runner.recipe.yaml_file import (
    OTHER_RECIPES,
    expanded,
    override,
    places,
    read_given,
    read_with_traps,
    value_at,
)

# where a recipe names files and folders
PATHS: tuple[Key, ...] = (
    ("data", "root"),
    ("data", "args", "*"),
    ("data", "labelled"),
    ("data", "tuning_part"),
    ("data", "unlabelled", "images"),
    ("data", "cache_folder"),
    ("data", "extra", "images"),
    ("data", "extra", "labels"),
    ("data", "extra", "pseudo", "images"),
    ("data", "extra", "pseudo", "folder"),
    ("networks", "*", "model"),
    ("networks", "*", "weights"),
    ("networks", "*", "args", "backbone_weights"),
    ("networks", "*", "cache", "folder"),
    *OTHER_RECIPES,
    ("tracking", "folder"),
)

# what an assignment says of the place a run is made in, and not of the experiment; data.root, where it is the same data
OF_THE_PLACE = ("data.workers", "data.max_pixels", "data.allow_overlap", "data.cache", "loop.timeout",
                "evaluate.batch_size", "tracking.wandb", "tracking.project", "tracking.images", "tracking.every",
                "tracking.gradients")  # fmt: skip


def read(
    path: str | Path | dict, assignments: Iterable[str] = (), *, trust_checkpoint: bool = False, resolved: bool = False
) -> Recipe:
    """Reads, merges, overrides and checks a recipe. RecipeError lists every mistake and what is allowed.

    Args:
        path: of a file, or an address (runner/recipe/addresses.py), or what would stand in a file.
        trust_checkpoint: weights files that could start code are read all the same.
        resolved: a run's own, which says all of its networks: what the recipes and weights that it was made with say
            today is not asked.
    """
    source, assignments = find_source(path), list(assignments)
    values, origins, traps = _read_values(source, assignments)
    wrong_parts: list[Mistake] = []
    for pattern in PATHS:  # a stranger's recipe learns nothing of this machine
        wrong_parts += _expand(values, pattern, lambda key: source.root is None or origins.by_hand(key))
    wrong_networks, told = ([], {}) if resolved else _complete_networks(values, source)
    wrong_parts += wrong_networks + _complete_parts(values)
    recipe, mistakes = _validate(values)
    mistakes += wrong_parts
    if recipe is None:  # what is left without the mistakes may show more of them
        recipe, _ = _validate(_without(values, [key for key, _ in mistakes]))
    if recipe is not None:
        mistakes += [*recipe.wrong(), *wrong_fields(recipe), *wrong_from_elsewhere(recipe, source, origins)]
    if mistakes or traps:
        raise _error(source, mistakes, origins, traps)
    completed = _with_paths(recipe.complete(), source)
    completed = completed.model_copy(update={"evaluate": completed.evaluate.model_copy(update=fixed_by(recipe))})
    completed._trust_checkpoint, completed._assignments = trust_checkpoint, tuple(assignments)
    completed._told = told
    others = [assignment for assignment in assignments if not assignment.startswith("data.root=")]
    if len(others) < len(assignments):
        completed._root_in_file = value_at(_read_values(source, others)[0], "data", "root")
    return completed


def read_as_written(path: str | Path) -> Recipe:
    """A recipe as its file says it, checked against the schema alone: no part is imported, nothing of it completed.

    But a network without a model that another recipe trains is told by that one, as its file says it.
    """
    source = find_source(path)
    values, origins, traps = _read_values(source, [])
    networks = values.get("networks")
    for entry in networks.values() if isinstance(networks, dict) else ():
        other = value_at(entry, "weights", "recipe")
        if isinstance(other, str) and entry.get("model") is None:
            told = _told_by_recipe(source.other(other))
            if told is not None:
                fill(entry, told, other)  # what it contradicts is told where the recipe is used
    return _checked(source, values, origins, traps)


def _checked(source: Source, values: dict, origins: Origins, traps: list[str]) -> Recipe:
    """The recipe of values that are as their file says them. RecipeError: what the schema does not allow."""
    recipe, mistakes = _validate(values)
    if mistakes or traps:
        raise _error(source, mistakes, origins, traps)
    return recipe


def read_other(recipe: Recipe, other: OtherRecipe) -> Recipe:
    """A recipe that another one names, with what the command line said of the place, where both run."""
    said = {assignment.partition("=")[0]: assignment for assignment in recipe.assignments}
    of_the_place = [assignment for key, assignment in said.items() if key.startswith(OF_THE_PLACE)]
    found = read(other.recipe, of_the_place, trust_checkpoint=recipe.trust_checkpoint)
    ours = recipe.root_in_file
    is_elsewhere = ours is not None and expanded(str(ours)) != found.data.root  # other images of the same kind
    if "data.root" not in said or found.data.dataset != recipe.data.dataset or is_elsewhere:
        return found
    return read(other.recipe, [*of_the_place, said["data.root"]], trust_checkpoint=recipe.trust_checkpoint)


def read_needed(recipe: Recipe, is_done: Callable[[Recipe], bool], above: tuple[Recipe, ...] = ()) -> list[Recipe]:
    """The recipes to be trained before this one, each after what it needs itself.

    Args:
        is_done: whether a recipe's run is there already; then nobody asks what it needed.
        above: the recipes that asked for this one.

    Raises:
        ValueError: recipes that need each other, or of one name.
    """
    above = (*above, recipe)
    needed: dict[Path, Recipe] = {}
    for entry in recipe.others:
        other = read_other(recipe, entry)
        folders = [one.folder for one in (*above, other)]
        if other.folder in folders[:-1]:
            behind = folders[folders.index(other.folder) + 1]
            if behind not in [read_other(other, one).folder for one in other.others]:  # another recipe of that name
                raise ValueError(
                    f"{entry.recipe}, which is trained before {recipe.name}, is called {other.name} as a recipe that "
                    f"needs it, and both would train in {other.folder}; give one of them a `name:` of its own"
                )
            circle = " -> ".join(map(str, folders))
            raise ValueError(f"each of these runs needs the next one first, in a circle: {circle}")
        if other.folder not in needed and not is_done(other):
            needed |= {one.folder: one for one in read_needed(other, is_done, above)}
            needed[other.folder] = other
    return list(needed.values())


def _read_values(source: Source, assignments: list[str]) -> tuple[dict, Origins, list[str]]:
    """What file and command line say, where each says it, and the traps in the file."""
    if source.given is None:
        values, origins, traps = read_with_traps(source.path, source.root)
        refuse_other_kind(values, source.path, RECIPE)
    else:
        values, origins, traps = read_given(source.given)
    before = protocol_in(values)
    _name_metrics(values)
    override(values, origins, assignments)
    _name_metrics(values)
    change_protocol(values, origins, before)
    values.setdefault("name", source.default_name)
    return values, origins, traps


def _name_metrics(values: dict) -> None:
    """Makes the list `metrics: [boundary]` a mapping to arguments in place, so that each can be set or overridden."""
    names = value_at(values, "evaluate", "metrics")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        values["evaluate"]["metrics"] = {name: {} for name in names}


def _expand(values: dict, pattern: Key, may: Callable[[Key], bool]) -> list[Mistake]:
    """Expands the paths of files at the end of a path of keys, in place. Mistakes: what this machine does not know."""
    mistakes: list[Mistake] = []
    for place, key in places(values, pattern):
        value = place.get(key[-1])
        if isinstance(value, str) and may(key):
            try:
                place[key[-1]] = expanded(value)
            except ValueError as error:
                mistakes.append((key, str(error)))
    return mistakes


def _error(source: Source, mistakes: list[Mistake], origins: Origins, traps: list[str]) -> RecipeError:
    """All that is wrong, less what only repeats a trap: a value that could not be read is wrong in other ways too."""
    trapped = [trap.split(": ")[:2] for trap in traps]
    lines = [line for line in located(mistakes, origins, str(source.path)) if line.split(": ")[:2] not in trapped]
    return RecipeError([source.named(line) for line in traps + lines])


def _validate(values: dict) -> tuple[Recipe | None, list[Mistake]]:
    try:
        return Recipe.model_validate_json(json.dumps(values)), []
    except pydantic.ValidationError as error:
        return None, found_by(error, Recipe, values)


def _without(values: dict, keys: list[Key]) -> dict:
    """The values less what stands at the keys."""
    values = copy.deepcopy(values)
    for *outer, last in keys:
        place = value_at(values, *outer)
        if isinstance(place, dict):
            place.pop(last, None)
    return values


def parts_of(values: dict) -> Iterator[tuple[str, object, Key | None, Key]]:
    """(room, name, key of the name, key of the arguments) of each part a recipe names, however broken it is."""
    yield "datasets", value_at(values, "data", "dataset"), ("data", "dataset"), ("data", "args")
    yield "datasets", "_transforms", None, ("data", "transform")
    optional = {("mix",): "_mixing", ("unlabelled", "transform"): "_transforms", ("unlabelled", "strong"): "_strong"}
    for key, name in optional.items():
        if value_at(values, "data", *key) is not None:
            yield "datasets", name, None, ("data", *key)
    networks, losses, metrics = values.get("networks"), values.get("losses"), value_at(values, "evaluate", "metrics")
    for name in networks if isinstance(networks, dict) else ():
        here = ("networks", name)
        yield "models", value_at(values, *here, "model"), (*here, "model"), (*here, "args")
    for index in range(len(losses) if isinstance(losses, list) else 0):
        here = ("losses", index)
        yield "losses", value_at(values, *here, "loss"), (*here, "loss"), (*here, "args")
    for name in metrics if isinstance(metrics, dict) else ():
        here = ("evaluate", "metrics", name)
        yield parts.METRICS, name, here, here


def _complete_networks(
    values: dict, source: Source, above: tuple[Path, ...] = ()
) -> tuple[list[Mistake], dict[str, str]]:
    """Writes out what the weights of networks tell and the recipe does not say, in place.

    Args:
        above: the recipes that ask for this one, which tells nothing to those it asks for.

    Returns:
        What it says and they contradict; network -> what was taken from its weights, in words.
    """
    mistakes: list[Mistake] = []
    words: dict[str, str] = {}
    networks = values.get("networks")
    for name, entry in networks.items() if isinstance(networks, dict) else ():
        weights, layout, part = (value_at(entry, key) for key in ("weights", "layout", "part"))
        other = value_at(weights, "recipe")
        told = None
        if isinstance(weights, str) and all(isinstance(word, str | None) for word in (layout, part)):
            told = told_by(weights, layout, part)
        elif isinstance(other, str):
            told = _told_by_recipe(source.other(other), above)
        if told is not None and isinstance(told.model, str):
            wrong, taken = fill(entry, told, other or weights)
            mistakes += [(("networks", name, *key), text) for key, text in wrong]
            words |= {name: taken} if taken else {}
    return mistakes, words


def _told_by_recipe(path: str, above: tuple[Path, ...] = ()) -> Told | None:
    """The student of a recipe that is to be trained first, with what its own weights tell of it.

    None where that is not there or says no model. What is wrong with its networks is told where it is trained.
    """
    try:
        source = find_source(path)
        values, origins, traps = _read_values(source, [])
    except FileNotFoundError:
        return None
    if source.path in above:
        return None
    _complete_networks(values, source, (*above, source.path))
    student = _checked(source, values, origins, traps).networks.get("student")
    if student is None or student.model is None:
        return None
    file, arguments = parts.network_part(student.source, student.model, student.args)
    return Told(file, arguments, certain=True)


def _complete_parts(values: dict) -> list[Mistake]:
    """Writes out the arguments of each part with its defaults, in place. Mistakes: unknown names, wrong arguments."""
    mistakes: list[Mistake] = []
    for room, name, name_key, (*outer, last) in parts_of(values):
        section = value_at(values, *outer)
        arguments = section.get(last, {}) if isinstance(section, dict) else None
        if not isinstance(name, str) or not isinstance(arguments, dict):
            continue  # the schema says so
        source = section.get("source", "segkd") if room == "models" else "segkd"
        if room == "models" and name == "sam" and section.get("train") == "lora":
            arguments = {"lora_rank": 4, **arguments}
        name, arguments = parts.network_part(source, name, arguments)
        known = parts.names(room)
        if name_key is not None and name not in known:
            hint = did_you_mean(name, known)
            mistakes.append((name_key, f"no {parts.path_of(room, name)}{hint}; there are: {', '.join(known)}"))
            continue
        wrong = parts.wrong_arguments(room, name, arguments)
        mistakes += [((*outer, last, *key), text) for key, text in wrong]
        if not wrong:
            completed = parts.completed_arguments(room, name, arguments)
            section[last] = parts.arguments_in_recipe(source, name, completed)
    return mistakes


def _with_paths(recipe: Recipe, source: Source) -> Recipe:
    """The recipe with the paths of other recipes relative to the working directory, not to where it lies."""

    def other(value):
        return OtherRecipe(recipe=source.other(value.recipe)) if isinstance(value, OtherRecipe) else value

    networks = recipe.networks.items()
    networks = {name: one.model_copy(update={"weights": other(one.weights)}) for name, one in networks}
    return recipe.model_copy(update={"networks": networks, "baseline": other(recipe.baseline)})
