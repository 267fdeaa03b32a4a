"""Reads run folders that came to their end: recipe, scores, and what was counted on each image."""

import glob
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from segkd.runner.comparing.bootstrap import mean_iou
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.metrics_file import read_rows


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder tells.

    Attributes:
        counts: (N, K, 3) intersection, label pixels, predicted pixels of each of the N images named in `names`, for
            the best checkpoint. teachers: mIoU of the frozen networks. curve: (iteration, mIoU) of each evaluation.
    """

    folder: Path
    recipe: Recipe
    summary: dict
    device: str
    class_names: list[str]
    names: list[str]
    counts: np.ndarray
    teachers: dict[str, float]
    curve: list[tuple[int, float]]


def find_runs(paths: Iterable[str], *, skip_unfinished: bool = False) -> list[FinishedRun]:
    """The runs that paths name: run folders, folders that hold some at any depth, and patterns of either.

    Raises:
        FileNotFoundError: a path holds no run. ValueError: a run has not been finished, or a file of it is damaged.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        found = [run for place in sorted(glob.glob(path)) or [path] for run in _runs_below(Path(place))]
        if not found:
            raise FileNotFoundError(f"{path} holds no run; a run is a folder with recipe.yaml, made by distill.py")
        folders |= {folder.resolve(): folder for folder in found if folder.resolve() not in folders}
    unfinished = [folder for folder in folders.values() if not _is_finished(folder)]
    if unfinished and (not skip_unfinished or len(unfinished) == len(folders)):
        which = ", ".join(map(str, unfinished))
        raise ValueError(f"not finished: {which}; go on with distill.py --resume, or leave out with --skip-unfinished")
    return [_read_run(folder) for folder in folders.values() if folder not in unfinished]


def _runs_below(folder: Path) -> list[Path]:
    if (folder / "recipe.yaml").is_file():
        return [folder]
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [run for path in inner if not path.name.startswith(".") for run in _runs_below(path)]


def _is_finished(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("student/config.json", "summary.json"))


def _read_run(folder: Path) -> FinishedRun:
    try:
        summary = json.loads((folder / "summary.json").read_text())
        described = json.loads((folder / "student" / "config.json").read_text())
        device = json.loads((folder / "environment.json").read_text())["device"]
        with np.load(folder / "images.npz") as arrays:
            names, counts = arrays["names"].tolist(), arrays["counts"]
        teachers = folder / "teachers.json"
        scored = json.loads(teachers.read_text()) if teachers.is_file() else {}
        miou = float(summary["miou"])
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing, so {folder} cannot be compared; train it again") from None
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(f"a file of {folder} cannot be read ({error}); train it again") from None
    run = FinishedRun(
        folder,
        read(folder / "recipe.yaml"),
        summary,
        device,
        described["class_names"],
        names,
        counts,
        {name: scores["miou"] for name, scores in scored.items() if scores["miou"] is not None},
        [(row["iteration"], row["miou"]) for row in read_rows(folder / "metrics.jsonl") if row.get("miou") is not None],
    )
    counted = float(mean_iou(counts.sum(0), run.recipe.evaluate.absent))
    if abs(counted - miou) > 1e-6:
        raise ValueError(f"{folder}/images.npz gives {counted:.4f} mIoU, summary.json says {miou:.4f}; train it again")
    return run


def common_folder(runs: list[FinishedRun]) -> Path:
    """The deepest folder that all runs lie in, relative to here."""
    return Path(os.path.relpath(os.path.commonpath([run.folder.resolve().parent for run in runs])))
