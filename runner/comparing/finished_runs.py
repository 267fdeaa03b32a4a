"""Reads run folders that have delivered: recipe, scores, and what was counted on each image."""

import glob
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from segkd.runner.comparing.bootstrap import mean_iou
from segkd.runner.console import command, say, some
from segkd.runner.recipe.program_file import PRECISIONS, ProgramFile
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder, read_images
from segkd.runner.run_folder.metrics_file import phase_seconds, training_times
from segkd.runner.run_folder.program_scores import read_scores

JOURNAL = "journal.log"  # in the folder of a search, whose trials are no results
# what an exported file has of the run that it comes from, beside scores of its own
OF_THE_RUN = ("parameters", "flops", "iteration", "trained", "unfinished")


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder holds.

    Attributes:
        protocol: how the score was made, in words. absent: what a class counts that never occurs. Both are written
            with the score: a run may be resumed with another `evaluate` section than its recipe.yaml has.
        code: the commits it was trained with; None where they are not known.
        counts: (N, K, 3) intersection, label pixels, predicted pixels of each of the N images named in `names`, for
            the best checkpoint. teachers: mIoU of the frozen networks.
        curve: (iteration, seconds of training until then, mIoU) of each evaluation; the seconds are NaN where the log
            does not tell.
        phases: mean seconds of an iteration, and of an evaluation, by what they went into; empty in older runs.
        program: of a file that the run's student was exported to, what it is, such as INT8; then `folder` is the file,
            its scores are those of its own runtime, and it was not trained: it has no curve and no seconds.
    """

    folder: Path
    recipe: Recipe
    summary: dict
    protocol: str
    absent: Literal["skip", "zero"]
    device: str
    code: str | None
    class_names: list[str]
    names: list[str]
    counts: np.ndarray
    teachers: dict[str, float]
    curve: list[tuple[int, float, float]]
    phases: dict[str, float]
    program: str = ""

    @property
    def iterations(self) -> int:
        """How many it was trained for; a run that has ended early says so."""
        return self.summary.get("trained", self.recipe.schedule.iterations)

    @property
    def unfinished(self) -> str | None:
        """Why it is not finished, in words; None for a run that is."""
        return self.summary.get("unfinished")


def find_runs(paths: Iterable[str], *, skip_unfinished: bool = False) -> list[FinishedRun]:
    """The runs that paths name: run folders, folders that hold some at any depth, exported files, and patterns of them.

    The trials of a search are none of them, unless their own folder is named.

    Raises:
        FileNotFoundError: a path is not there, or none holds a run. ValueError: a run has not been finished, or a file
            of it is damaged; an exported file does not lie in its run's folder, or was not scored.
    """
    places = [place for path in paths for place in sorted(glob.glob(path)) or [path]]
    programs = {Path(place).resolve(): file for place in places if (file := ProgramFile.named(place)) is not None}
    runs: dict[Path, RunFolder] = {}
    empty: list[str] = []
    for path in [place for place in places if ProgramFile.named(place) is None]:
        found = runs_below(Path(path))
        if not found:
            empty.append(path)
        for run in found:
            runs.setdefault(run.path.resolve(), run)
    # a pattern, which the shell may have filled in, meets logs and the comparison of before
    missing = [path for path in empty if not os.path.exists(path)]
    if missing or len(empty) == len(places) > 0:
        raise FileNotFoundError(
            f"{[*missing, *empty][0]} holds no run; a run is a folder with recipe.yaml, made by distill.py"
        )
    if empty:
        say(f"{some(empty, 1)}: left out, as no run lies there")
    unfinished = [run for run in runs.values() if (_is_missing(run) if skip_unfinished else not run.has_results)]
    if unfinished and (not skip_unfinished or len(unfinished) == len(runs) + len(programs)):
        which = ", ".join(str(run.path) for run in unfinished)
        raise ValueError(
            f"not finished: {which}; go on with distill.py --resume, deliver as it stands with distill.py --deliver, or "
            f"leave out with --skip-unfinished"
        )
    finished = [run for run in runs.values() if run not in unfinished]
    by_loss = {run: loss for run in finished if (loss := _held_out_loss(run)) is not None}
    for run, loss in by_loss.items():
        told = f"{run.path} is judged by the loss on held-out images ({loss:.5g}) and has no mIoU"
        if len(by_loss) == len(finished) + len(programs):
            raise ValueError(f"{told}, so there is nothing to compare; compare the runs that start from its student")
        say(f"{told}; left out")
    read = [_read_run(run) for run in finished if run not in by_loss]
    return read + [_read_program(file) for file in programs.values()]


def missing_runs(asked: Iterable[Path], folders: Iterable[str]) -> list[str]:
    """Names of the runs that have not come to their end: of those asked for, and of those begun in some folders.

    Args:
        folders: also run folders, and patterns.
    """
    places = [place for folder in folders for place in sorted(glob.glob(folder)) or [folder]]
    runs = {run.path.resolve(): run for place in places for run in runs_below(Path(place))}
    runs |= {path.resolve(): RunFolder(path) for path in asked}
    return sorted(run.path.name for run in runs.values() if _is_missing(run))


def _is_missing(run: RunFolder) -> bool:
    return not run.has_results or run.student.is_unfinished


def _held_out_loss(run: RunFolder) -> float | None:
    """What judges a run without mIoU; None for others, and where it cannot be read."""
    try:
        return run.read_summary().get("held_out_loss")
    except ValueError:
        return None  # who reads the run tells of it


def runs_below(folder: Path) -> list[RunFolder]:
    """The runs that were begun in a folder, at any depth, or the one that it is; trials of a search are none."""
    if RunFolder(folder).is_begun:
        return [RunFolder(folder)]
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    inner = [path for path in inner if not (path / JOURNAL).is_file()]
    return [run for path in inner if not path.name.startswith(".") for run in runs_below(path)]


def _read_run(run: RunFolder) -> FinishedRun:
    recipe, rows = run.read_recipe(), run.read_rows()
    times = training_times(rows, recipe.data.batch_size)
    try:
        summary, (names, counts) = run.read_summary(), run.read_images()
        absent = summary.get("absent", recipe.evaluate.absent)
        finished = FinishedRun(
            run.path,
            recipe,
            summary,
            summary["protocol"],
            absent,
            run.read_device(),
            run.read_code(),
            run.student.read_config()["class_names"],
            names,
            counts,
            {name: scores["miou"] for name, scores in run.read_teachers().items() if scores["miou"] is not None},
            [
                (row["iteration"], times.get(row["iteration"], math.nan), row["miou"])
                for row in rows
                if row.get("miou") is not None
            ],
            phase_seconds(rows),
        )
        counted, miou = float(mean_iou(counts.sum(0), absent)), float(summary["miou"])
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing, so {run.path} cannot be compared; train it again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"a file of {run.path} cannot be read ({error}); train it again") from None
    if abs(counted - miou) > 1e-6:
        raise ValueError(
            f"{run.images_file} gives {counted:.4f} mIoU, {run.summary_file.name} says {miou:.4f}; train it again"
        )
    return finished


def _read_program(file: ProgramFile) -> FinishedRun:
    """What the run of an exported file holds, with the file's own scores."""
    run = RunFolder.enclosing(file.path)
    if run is None or not run.has_results:
        raise ValueError(
            f"{file.path} does not lie in the folder of the run it was exported from, as export.py leaves it"
        )
    scores, trained = read_scores(file), _read_run(run)
    data = trained.recipe.data
    if scores is None or not file.images_file.is_file():
        raise ValueError(f"{file.path} was not scored since it was written; score it: {command('score', file.path)}")
    if (scores.get("dataset"), scores.get("split")) != (data.dataset, data.val_split):
        raise ValueError(f"{file.path} was scored last on other images than its run; {command('score', file.path)}")
    names, counts = read_images(file.images_file)
    precision = file.read_about().get("precision")
    return replace(
        trained,
        folder=file.path,
        summary={key: trained.summary[key] for key in OF_THE_RUN if key in trained.summary} | scores,
        protocol=scores["protocol"],
        absent=scores.get("absent", trained.absent),
        names=names,
        counts=counts,
        curve=[],
        phases={},
        program=PRECISIONS.get(precision, file.kind),
    )


def common_folder(runs: list[FinishedRun]) -> Path:
    """The deepest folder that all runs lie in, relative to here."""
    return Path(os.path.relpath(os.path.commonpath([run.folder.resolve().parent for run in runs])))
