"""Reads a recipe file and checks it against the schema, the parts it names and itself: all its mistakes in one pass."""

import copy
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pydantic

from segkd.runner import parts
from segkd.runner.mistakes import Mistake, RecipeError, did_you_mean, found_by, located
from segkd.runner.recipe import OtherRecipe, Ramp, Recipe
from segkd.runner.yaml_file import Key, override, read_with_traps


def read(path: str | Path, assignments: Iterable[str] = ()) -> Recipe:
    """Reads, merges, overrides and checks a recipe. RecipeError lists every mistake and what is allowed."""
    values, origins, traps = read_with_traps(path)
    override(values, origins, list(assignments))
    recipe, mistakes = _validated(values)
    mistakes += _wrong_parts(values)
    if recipe is None:  # what is left without the mistakes may show more of them
        recipe, _ = _validated(_without(values, [key for key, _ in mistakes]))
    if recipe is not None:
        mistakes += _wrong_relations(recipe)
    if mistakes or traps:
        lines = located(mistakes, origins, str(path))
        raise RecipeError(traps + [line for line in lines if not _told(line, traps)])
    return _completed(recipe, Path(path).parent)


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
    networks, losses = values.get("networks"), values.get("losses")
    for name, network in networks.items() if isinstance(networks, dict) else ():
        if isinstance(network, dict):
            here = ("networks", name)
            yield (*here, "model"), (*here, "args"), "models", network.get("model"), network.get("args", {})
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
        if name != "_transforms" and name not in parts.names(room):
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
    for index, term in enumerate(recipe.losses):
        here: Key = ("losses", index)
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
    if recipe.schedule.name == "step" and recipe.schedule.drop_every is None:
        mistakes.append((("schedule", "drop_every"), "is missing; name: step needs the iterations between two drops"))
    if recipe.data.batch_size % recipe.loop.accumulate:
        mistakes.append(
            (
                ("loop", "accumulate"),
                f"{recipe.loop.accumulate} parts do not divide data.batch_size, "
                f"which is {recipe.data.batch_size} in total",
            )
        )
    return mistakes


def _completed(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the parts' own defaults written out and the paths of other recipes relative to here."""

    def other(value):
        return OtherRecipe(recipe=os.path.relpath(folder / value.recipe)) if isinstance(value, OtherRecipe) else value

    data = recipe.data.model_copy(
        update={
            "args": parts.completed_arguments("datasets", recipe.data.dataset, recipe.data.args),
            "transform": parts.completed_arguments("datasets", "_transforms", recipe.data.transform),
        }
    )
    networks = {
        name: network.model_copy(
            update={
                "args": parts.completed_arguments("models", network.model, network.args),
                "weights": other(network.weights),
            }
        )
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
        update={"data": data, "networks": networks, "losses": losses, "baseline": other(recipe.baseline)}
    )
