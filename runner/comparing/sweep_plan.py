"""What a sweep asks for: recipes, trained with several seeds; all of it is read and checked before a run starts."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pydantic
from pydantic import Field, NonNegativeInt, PositiveInt

from segkd.runner.recipe.mistakes import Key, Origins, RecipeError, did_you_mean, found_by, located
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import Name, OtherRecipe, Section
from segkd.runner.recipe.yaml_file import read_with_traps
from segkd.runner.run_folder.opening import is_finished, refuse_used_folder

FIXED = {"name", "seed", "baseline", "tracking.group"}  # what the sweep itself says for each of its runs


class Method(Section):
    recipe: str = Field(description="path of a recipe, relative to the sweep's file")
    assignments: list[str] = Field([], alias="set", description="key=value, for this method's runs")


class Sweep(Section):
    name: Name = Field(description="the runs are <tracking.folder>/<name>/<name>-<method>-s<seed>")
    seeds: list[NonNegativeInt] = Field([0], min_length=1)
    at_once: PositiveInt = Field(1, description="runs side by side")
    threads: PositiveInt | None = Field(None, description="CPU threads of each run; default: cores / at_once")
    gpus: list[NonNegativeInt] | None = Field(
        None, min_length=1, description="the GPUs the runs take in turn, one each; default: what they find"
    )
    assignments: list[str] = Field([], alias="set", description="key=value, for all runs")
    methods: dict[Name, str | Method] = Field(min_length=1, description="what tables call it -> recipe")


@dataclass(frozen=True)
class Run:
    """One training: what distill.py is started with, and what it will read from that.

    Attributes:
        path: of the recipe. assignments: its overrides. needs: the run folders of the teachers it reads.
    """

    recipe: Recipe
    path: str
    assignments: tuple[str, ...] = ()
    needs: tuple[Path, ...] = ()

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.recipe.folder.with_name(f"{self.recipe.name}.log")

    def state(self) -> str:
        """`done`, `begun` or `new`."""
        if is_finished(self.recipe):
            return "done"
        return "begun" if (self.recipe.folder / "recipe.yaml").is_file() else "new"


@dataclass(frozen=True)
class Plan:
    """A sweep that was found right: the teachers that have not been trained yet, then the runs in their order."""

    sweep: Sweep
    teachers: list[Run]
    runs: list[Run]


def read_plan(path: str | Path, assignments: Iterable[str] = (), only: Iterable[str] | None = None) -> Plan:
    """Reads a sweep and every recipe in it. All methods of the first seed come first, then those of the next.

    Args:
        assignments: overrides of all recipes, over those of the file. only: the methods to keep.

    Raises:
        ValueError: with every mistake in the sweep and its recipes. FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no sweep file {path}")
    sweep, origins = _read_sweep(path)
    chosen = list(sweep.methods) if only is None else list(dict.fromkeys(only))
    for method in chosen:
        if method not in sweep.methods:
            known = list(sweep.methods)
            raise ValueError(
                f"--only {method}: {path} has no such method{did_you_mean(method, known)}; it has {', '.join(known)}"
            )
    runs: dict[str, list[Run]] = {}
    teachers: dict[Path, Run] = {}
    mistakes = [
        f"{origins.of(('set', index)) or path}: set.{index}: {text}"
        for index, assignment in enumerate(sweep.assignments)
        for text in _wrong_assignment(assignment)
    ]
    mistakes += [f"command line: {text}" for assignment in assignments for text in _wrong_assignment(assignment)]
    for method in chosen:
        here: Key = ("methods", method)
        try:
            runs[method] = _runs_of(sweep, method, Path(path).parent, list(assignments), teachers)
        except RecipeError as error:
            mistakes += [f"methods.{method}: {mistake}" for mistake in error.mistakes]
        except (ValueError, FileNotFoundError) as error:
            mistakes.append(f"{origins.of(here)}: methods.{method}: {error}")
    if mistakes:
        raise _wrong(path, mistakes)
    by_seed = [run for of_a_seed in zip(*runs.values()) for run in of_a_seed]
    return Plan(sweep, [run for run in teachers.values() if run.state() != "done"], by_seed)


def _read_sweep(path: str | Path) -> tuple[Sweep, Origins]:
    """The file against the schema."""
    values, origins, traps = read_with_traps(path)
    try:
        sweep = Sweep.model_validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        raise _wrong(path, traps + located(found_by(error, Sweep, values), origins, str(path))) from None
    if len(set(sweep.seeds)) < len(sweep.seeds):
        traps.append(f"{origins.of(('seeds',))}: seeds: each must be given once; got {sweep.seeds}")
    if traps:
        raise _wrong(path, traps)
    return sweep, origins


def _wrong(path: str | Path, mistakes: list[str]) -> ValueError:
    mistakes = list(dict.fromkeys(mistakes))
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return ValueError(f"the sweep {path} has {count}, nothing was started:\n" + "\n".join(f"  {m}" for m in mistakes))


def _wrong_assignment(assignment: str) -> Iterator[str]:
    """What the sweep says itself cannot be set."""
    key = assignment.partition("=")[0]
    if key in FIXED:
        yield f"{key} is what the sweep gives each of its runs; it cannot be set"


def _runs_of(sweep: Sweep, method: str, folder: Path, assignments: list[str], teachers: dict[Path, Run]) -> list[Run]:
    """The runs of one method, seed by seed; the teachers they need are added to `teachers`, those they need first."""
    entry = sweep.methods[method]
    entry = Method(recipe=entry) if isinstance(entry, str) else entry
    for assignment in entry.assignments:
        for text in _wrong_assignment(assignment):
            raise ValueError(text)
    path = str(folder / entry.recipe)
    given = [*sweep.assignments, *entry.assignments, *assignments, "baseline=null"]
    recipe = read(path, given)
    # in quotes, since a name such as 1e5 would be a number
    given.append(f"tracking.folder={json.dumps(str(Path(recipe.tracking.folder) / sweep.name))}")
    given.append(f"tracking.group={json.dumps(sweep.name)}")
    if recipe.method is None:
        given.append(f"method={json.dumps(method)}")
    needs = tuple(_needed(recipe, teachers))
    runs = []
    for seed in sweep.seeds:
        own = [*given, f"name={json.dumps(f'{sweep.name}-{method}-s{seed}')}", f"seed={seed}"]
        run = Run(read(path, own), path, tuple(own), needs)
        refuse_used_folder(run.recipe, resume=True, overwrite=False)
        runs.append(run)
    return runs


def _needed(recipe: Recipe, teachers: dict[Path, Run]) -> Iterator[Path]:
    """Run folders of the networks that are recipes themselves, which must have been trained before this one starts."""
    wanted = [network.weights for network in recipe.networks.values()] + [recipe.baseline]
    for other in wanted:
        if isinstance(other, OtherRecipe):
            teacher = read(other.recipe)
            if teacher.folder not in teachers:
                refuse_used_folder(teacher, resume=True, overwrite=False)
                needs = tuple(_needed(teacher, teachers))
                teachers[teacher.folder] = Run(teacher, other.recipe, needs=needs)
            yield teacher.folder
