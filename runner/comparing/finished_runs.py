"""Reads run folders that came to their end: recipe, scores, and what was counted on each image."""

import glob
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from segkd.runner.comparing.bootstrap import mean_iou
from segkd.runner.console import say
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import phase_seconds, training_times


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder holds.

    Attributes:
        protocol: how the score was made, in words. absent: what a class counts that never occurs. Both are written
            with the score: a run may be resumed with another `evaluate` section than its recipe.yaml has.
        counts: (N, K, 3) intersection, label pixels, predicted pixels of each of the N images named in `names`, for
            the best checkpoint. teachers: mIoU of the frozen networks.
        curve: (iteration, seconds of training until then, mIoU) of each evaluation; the seconds are NaN where the log
            does not tell.
        phases: mean seconds of an iteration, and of an evaluation, by what they went into; empty in older runs.
    """

    folder: Path
    recipe: Recipe
    summary: dict
    protocol: str
    absent: Literal["skip", "zero"]
    device: str
    class_names: list[str]
    names: list[str]
    counts: np.ndarray
    teachers: dict[str, float]
    curve: list[tuple[int, float, float]]
    phases: dict[str, float]


def find_runs(paths: Iterable[str], *, skip_unfinished: bool = False) -> list[FinishedRun]:
    """The runs that paths name: run folders, folders that hold some at any depth, and patterns of either.

    Raises:
        FileNotFoundError: a path holds no run. ValueError: a run has not been finished, or a file of it is damaged.
    """
    runs: dict[Path, RunFolder] = {}
    for path in paths:
        found = [run for place in sorted(glob.glob(path)) or [path] for run in _runs_below(Path(place))]
        if not found:
            raise FileNotFoundError(f"{path} holds no run; a run is a folder with recipe.yaml, made by distill.py")
        for run in found:
            runs.setdefault(run.path.resolve(), run)
    unfinished = [run for run in runs.values() if not (run.is_finished and run.summary_file.is_file())]
    if unfinished and (not skip_unfinished or len(unfinished) == len(runs)):
        which = ", ".join(str(run.path) for run in unfinished)
        raise ValueError(f"not finished: {which}; go on with distill.py --resume, or leave out with --skip-unfinished")
    finished = [run for run in runs.values() if run not in unfinished]
    by_loss = {run: loss for run in finished if (loss := _held_out_loss(run)) is not None}
    for run, loss in by_loss.items():
        told = f"{run.path} is judged by the loss on held-out images ({loss:.5g}) and has no mIoU"
        if len(by_loss) == len(finished):
            raise ValueError(f"{told}, so there is nothing to compare; compare the runs that start from its student")
        say(f"{told}; left out")
    return [_read_run(run) for run in finished if run not in by_loss]


def _held_out_loss(run: RunFolder) -> float | None:
    """What judges a run without mIoU; None for others, and where it cannot be read."""
    try:
        return run.read_summary().get("held_out_loss")
    except ValueError:
        return None  # who reads the run tells of it


def _runs_below(folder: Path) -> list[RunFolder]:
    if RunFolder(folder).is_begun:
        return [RunFolder(folder)]
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [run for path in inner if not path.name.startswith(".") for run in _runs_below(path)]


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


def common_folder(runs: list[FinishedRun]) -> Path:
    """The deepest folder that all runs lie in, relative to here."""
    return Path(os.path.relpath(os.path.commonpath([run.folder.resolve().parent for run in runs])))
