"""A file of several recipes that are trained side by side, and what they must have in common for that."""

import json
from collections.abc import Iterable
from pathlib import Path

import pydantic
from pydantic import Field

from segkd.runner.recipe.addresses import Source, is_address
from segkd.runner.recipe.differences import differences, in_words
from segkd.runner.recipe.mistakes import RecipeError, found_by, located
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import Section
from segkd.runner.recipe.yaml_file import read_with_traps, value_at

# one loader and one loop serve all: what they do must be the same, and so must the draws of a step
COMMON = ("seed", "data", "schedule.iterations", "loop.accumulate", "loop.precision", "loop.channels_last",
          "loop.sync_batchnorm", "evaluate.protocol", "tracking.every")  # fmt: skip


class Entry(Section):
    recipe: str = Field(description="path of a recipe, relative to this file, or its address")
    assignments: list[str] = Field([], alias="set", description="key=value, for this recipe")


class Together(Section):
    together: list[Entry] = Field(min_length=1)


def read_together(path: str | Path, assignments: Iterable[str] = (), *, trust_checkpoint: bool = False) -> list[Recipe]:
    """The recipes of a file: one, if it is a recipe itself, or those it lists under `together`.

    Raises:
        RecipeError: with the mistakes in all of them, or what keeps them from being trained side by side.
    """
    if is_address(path) or not Path(path).is_file():
        return [read(path, assignments, trust_checkpoint=trust_checkpoint)]
    values, origins, traps = read_with_traps(path)
    if "together" not in values:
        return [read(path, assignments, trust_checkpoint=trust_checkpoint)]
    try:
        entries = Together.model_validate_json(json.dumps(values)).together
    except pydantic.ValidationError as error:
        raise RecipeError(traps + located(found_by(error, Together, values), origins, str(path))) from None
    recipes, mistakes = [], traps
    for index, entry in enumerate(entries):
        where = f"{origins.of(('together', index))}: together.{index}"
        try:
            said = [*entry.assignments, *assignments]
            recipes.append(read(Source(Path(path)).other(entry.recipe), said, trust_checkpoint=trust_checkpoint))
        except RecipeError as error:
            mistakes += [f"{where}: {mistake}" for mistake in error.mistakes]
            continue
        reason = what_keeps_apart(recipes[0], recipes[-1])
        if reason is not None:
            mistakes.append(f"{where}: cannot be trained beside the first recipe: {reason}")
        elif recipes[-1].folder in [recipe.folder for recipe in recipes[:-1]]:
            mistakes.append(f"{where}: its run folder {recipes[-1].folder} is that of another recipe here")
    if mistakes:
        raise RecipeError(mistakes)
    return recipes


def what_keeps_apart(one: Recipe, other: Recipe) -> str | None:
    """Why two recipes cannot be trained side by side, in words; None where they can."""
    if "fp16" in (one.loop.precision, other.loop.precision):
        return "fp16 scales all gradients of a process by one factor"
    if one.schedule.is_open or other.schedule.is_open:
        return "how many iterations fit into schedule.hours or seconds is measured for one training alone"
    values = (common_values(one), common_values(other))
    found = [f"{key} is {in_words(before)} there and {in_words(now)} here" for key, before, now in differences(*values)]
    return "; ".join(found[:3]) or None


def common_values(recipe: Recipe) -> dict[str, object]:
    """What a recipe says that all beside it must say, too, in plain values."""
    values = recipe.model_dump(mode="json", by_alias=True)
    found = {key: value_at(values, *key.split(".")) for key in COMMON} | fixed_views(recipe)
    pseudo = value_at(values, "data", "extra", "pseudo", "network")
    if pseudo is not None:
        found |= {f"networks.{pseudo}": values["networks"][pseudo], "evaluate": values["evaluate"]}
    return found | {"whether images with labels are seen": recipe.sees_labelled}


def fixed_views(recipe: Recipe) -> dict[str, object]:
    """The views that caches of frozen networks give each stream, as (how many, seed)."""
    streams = {stream: recipe.caches_on(stream).values() for stream in ("labelled", "unlabelled")}
    return {
        f"the views of {stream} images": next(((cache.views, cache.seed) for cache in caches), None)
        for stream, caches in streams.items()
    }
