"""What a sweep asks for: recipes, trained with several seeds; all of it is read and checked before a run starts."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic
from annotated_types import Interval
from pydantic import Field

from segkd.runner.comparing.search_plan import Search, mistakes_in
from segkd.runner.comparing.slurm import Slurm
from segkd.runner.console import say, some
from segkd.runner.recipe.addresses import Source, is_address
from segkd.runner.recipe.kinds import SWEEP, refuse_other_kind
from segkd.runner.recipe.mistakes import RecipeError, did_you_mean, found_by, located
from segkd.runner.recipe.read import read, read_needed, read_other
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import Name, Section, Seed
from segkd.runner.recipe.shipped import ENDINGS, near
from segkd.runner.recipe.together import Entry, what_keeps_apart
from segkd.runner.recipe.yaml_file import read_with_traps, write
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.opening import is_finished, refuse_used_folder
from segkd.runner.run_folder.replacing import write_text

GIVEN_BY_THE_SWEEP = {"name", "seed", "baseline", "tracking.group"}  # for each of its runs, so no override may


class Sweep(Section):
    name: Name = Field(description="the runs are <tracking.folder>/<name>/<name>-<method>-s<seed>")
    seeds: list[Seed] = Field([0], min_length=1)
    at_once: Annotated[int, Interval(ge=1, le=1024)] = Field(1, description="processes side by side")
    together: bool = Field(
        False,
        description="the methods of a seed in one process, with one loader and one forward of the teacher they share; "
        "each ends with the same bits as alone",
    )
    threads: Annotated[int, Interval(ge=1, le=1024)] | None = Field(
        None, description="CPU threads of each run; default: cores / at_once"
    )
    gpus: list[Annotated[int, Interval(ge=0, le=1023)]] | None = Field(
        None, min_length=1, description="the GPUs the runs take in turn, one each; default: what they find"
    )
    assignments: list[str] = Field([], alias="set", description="key=value, for all runs")
    search: Search | None = Field(
        None, description="settings that are tried first; the best of each method are trained with all seeds"
    )
    slurm: Slurm | None = Field(None, description="how `sweep.py --slurm` places the runs on a cluster")
    methods: dict[Name, str | Entry] = Field(min_length=1, description="what tables call it -> recipe")

    @pydantic.field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("each must be given once")
        return seeds


@dataclass(frozen=True)
class Run:
    """One training: a recipe, its path, and the run folders of the teachers it reads."""

    recipe: Recipe
    path: str
    needs: tuple[Path, ...] = ()

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.recipe.folder.with_name(f"{self.recipe.name}.log")

    def state(self) -> str:
        """`done`, `begun` or `new`."""
        if is_finished(self.recipe):
            return "done"
        return "begun" if RunFolder(self.recipe.folder).is_begun else "new"


@dataclass(frozen=True, eq=False)
class Job:
    """Runs that are trained in one process, side by side where they are several."""

    runs: list[Run]

    @property
    def name(self) -> str:
        """What it is called on the console."""
        return " + ".join(run.recipe.name for run in self.runs)

    @property
    def folders(self) -> list[Path]:
        """The run folders."""
        return [run.recipe.folder for run in self.runs]

    @property
    def needs(self) -> list[Path]:
        """The run folders of the teachers they read."""
        return list(dict.fromkeys(folder for run in self.runs for folder in run.needs))

    @property
    def log(self) -> Path:
        """Where the output goes."""
        return self.runs[0].log if len(self.runs) == 1 else Path(self.file).with_suffix(".log")

    @property
    def file(self) -> str:
        """Where several recipes are listed for the training."""
        first = self.runs[0].recipe
        return str(first.folder.with_name(f"{first.name}-and-{len(self.runs) - 1}-more.yaml"))

    def prepare(self) -> None:
        """Makes the folder of the log, and the list of several recipes."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if len(self.runs) > 1:
            here = Path(self.file).parent
            entries = [
                {
                    "recipe": run.path if is_address(run.path) else os.path.relpath(run.path, here),
                    "set": list(run.recipe.assignments),
                }
                for run in self.runs
            ]
            write_text(Path(self.file), write({"together": entries}))


def side_by_side(runs: list[Run]) -> list[Job]:
    """The runs, those together that can be trained in one process; says why others cannot."""
    jobs: list[Job] = []
    for run in runs:
        reasons = {job: what_keeps_apart(job.runs[0].recipe, run.recipe) for job in jobs}
        job = next((job for job, reason in reasons.items() if reason is None), None)
        if job is not None:
            job.runs.append(run)
            continue
        same_seed = [job for job in jobs if job.runs[0].recipe.seed == run.recipe.seed]
        if same_seed:
            say(f"{run.recipe.name} is not trained beside {same_seed[0].name}: {reasons[same_seed[0]]}")
        jobs.append(Job([run]))
    return jobs


@dataclass(frozen=True)
class Tried:
    """A method whose settings are searched.

    Attributes:
        path, given: of the recipe of its trials, and the overrides that all of them have. folder: of all searches of
            the sweep. needs: run folders of the teachers it reads.
    """

    method: str
    path: str
    given: list[str]
    recipe: Recipe
    folder: Path
    needs: tuple[Path, ...]


@dataclass(frozen=True)
class Plan:
    """A sweep without mistakes: the teachers that have not been trained yet, then the runs in their order.

    Attributes:
        tried: the methods whose search has not come to its end; the runs of the sweep are not known before all have.
    """

    sweep: Sweep
    teachers: list[Run]
    runs: list[Run]
    tried: list[Tried]


Settings = Callable[[Sweep, Tried], list[str] | None]


def read_slurm(sweep: Sweep, path: str | Path, other: str) -> Slurm:
    """The section `slurm` of a sweep, or what another file holds in its place; slurm.yaml beside the sweep is found.

    Raises:
        ValueError: there is none, or it has mistakes. FileNotFoundError: there is no such file.
    """
    if not other and sweep.slurm is not None:
        return sweep.slurm
    file = Path(other) if other else Path(path).with_name("slurm.yaml")
    if not other and not file.is_file():
        raise ValueError(f"--slurm: {path} has no section `slurm`, and {file} is not there; write one, or name a file")
    values, origins, mistakes = read_with_traps(file)
    try:
        return Slurm.model_validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        raise _wrong(str(file), mistakes + located(found_by(error, Slurm, values), origins, str(file))) from None


def read_plan(
    path: str | Path,
    assignments: Iterable[str] = (),
    only: Iterable[str] | None = None,
    tuned: Settings | None = None,
) -> Plan:
    """Reads a sweep and every recipe in it. All methods of the first seed come first, then those of the next.

    Args:
        assignments: overrides of all recipes, over those of the file. only: the methods to keep.
        tuned: the overrides that the search of a method has found, None while it has not come to its end.

    Raises:
        ValueError: with every mistake in the sweep and its recipes. FileNotFoundError: there is no such file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no sweep file {path}{near(Path(path), ENDINGS)}")
    values, origins, mistakes = read_with_traps(path)
    refuse_other_kind(values, Path(path), SWEEP)
    try:
        sweep = Sweep.model_validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        mistakes += located(found_by(error, Sweep, values), origins, str(path))
    if mistakes:
        raise _wrong(f"the sweep {path}", mistakes)
    chosen, known = list(sweep.methods if only is None else dict.fromkeys(only)), list(sweep.methods)
    for method in chosen:
        if method not in known:
            raise ValueError(
                f"--only {method}: {path} has no such method{did_you_mean(method, known)}; it has {', '.join(known)}"
            )
    runs: list[list[Run]] = []
    teachers: dict[Path, Run] = {}
    tried: list[Tried] = []
    searched: dict[str, tuple[str, list[str], Recipe]] = {}
    refused: dict[str, list[str]] = {}  # what is wrong -> the methods it is wrong in
    said = {f"{origins.of(('set',))}: set": sweep.assignments, "command line": assignments}
    if sweep.search is not None:
        said[f"{origins.of(('search', 'set'))}: search.set"] = sweep.search.assignments
    for method in chosen:
        entry = sweep.methods[method]
        entry = Entry(recipe=entry) if isinstance(entry, str) else entry
        where = f"{origins.of(('methods', method))}: methods.{method}"
        said[where] = entry.assignments
        given = [*sweep.assignments, *entry.assignments, *assignments, "baseline=null"]
        try:
            recipe_path = Source(Path(path)).other(entry.recipe)
            if sweep.search is not None:
                searched[method] = recipe_path, given, read(recipe_path, [*given, *sweep.search.assignments])
                one = _tried(sweep, method, *searched[method][:2], teachers)
                found = None if tuned is None else tuned(sweep, one)
                if found is None:
                    tried.append(one)
                    continue
                given = [*given, *found]
            runs.append(_runs_of(sweep, method, recipe_path, given, teachers))
        except RecipeError as error:
            for mistake in error.mistakes:
                refused.setdefault(mistake, []).append(f"methods.{method}")
        except (ValueError, FileNotFoundError) as error:
            refused.setdefault(str(error), []).append(where)
    mistakes += [f"{some(places)}: {mistake}" for mistake, places in refused.items()]
    mistakes += [
        f"{place}: {key} is what the sweep gives each of its runs; it cannot be set"
        for place, words in said.items()
        for key in (word.partition("=")[0] for word in words)
        if key in GIVEN_BY_THE_SWEEP
    ]
    if sweep.search is not None and not mistakes and tried:
        mistakes += mistakes_in(sweep.search, searched)
    if mistakes:
        raise _wrong(f"the sweep {path}", mistakes)
    by_seed = [run for of_a_seed in zip(*runs) for run in of_a_seed]
    return Plan(sweep, list(teachers.values()), by_seed, tried)


def _wrong(what: str, mistakes: list[str]) -> ValueError:
    mistakes = list(dict.fromkeys(mistakes))
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return ValueError(f"{what} has {count}, nothing was started:\n" + "\n".join(f"  {m}" for m in mistakes))


def _runs_of(sweep: Sweep, method: str, path: str, given: list[str], teachers: dict[Path, Run]) -> list[Run]:
    """The runs of one method, seed by seed; the teachers they need are added to `teachers`, those they need first.

    Args:
        path: of the recipe, or its address. given: its overrides.
    """
    recipe = read(path, given)
    read_needed(recipe, is_finished)  # an error for recipes that need each other
    # in quotes, since a name such as 1e5 would be a number
    given = [*given, f"tracking.folder={json.dumps(str(Path(recipe.tracking.folder) / sweep.name))}"]
    given += [f"tracking.group={json.dumps(sweep.name)}"]
    given += [f"method={json.dumps(method)}"] if recipe.method is None else []
    needs = tuple(_needed(recipe, teachers))
    names = [f"name={json.dumps(f'{sweep.name}-{method}-s{seed}')}" for seed in sweep.seeds]
    runs = [Run(read(path, [*given, name, f"seed={seed}"]), path, needs) for name, seed in zip(names, sweep.seeds)]
    for run in runs:
        refuse_used_folder(run.recipe, resume=True, overwrite=False)
    return runs


def _tried(sweep: Sweep, method: str, path: str, given: list[str], teachers: dict[Path, Run]) -> Tried:
    """What the trials of a method have in common; the teachers they need are added to `teachers`."""
    recipe = read(path, given)
    read_needed(recipe, is_finished)
    folder = Path(recipe.tracking.folder) / sweep.name / "search"
    given = [*given, *sweep.search.assignments, f"seed={sweep.seeds[0]}"]
    given += [
        f"data.tuning_part={json.dumps(sweep.search.tuning_part)}",
        f"tracking.group={json.dumps(f'{sweep.name}-search')}",
    ]
    given += [f"method={json.dumps(method)}"] if recipe.method is None else []
    return Tried(method, path, given, read(path, given), folder, tuple(_needed(recipe, teachers)))


def _needed(recipe: Recipe, teachers: dict[Path, Run]) -> Iterator[Path]:
    """Run folders of the recipes that must be trained before this one, which join `teachers` after what they need."""
    for entry in recipe.others:
        teacher = read_other(recipe, entry)
        if is_finished(teacher):
            continue
        if teacher.folder not in teachers:
            refuse_used_folder(teacher, resume=True, overwrite=False)
            needs = tuple(_needed(teacher, teachers))
            teachers[teacher.folder] = Run(teacher, entry.recipe, needs)
        yield teacher.folder
