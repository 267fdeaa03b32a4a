"""report.html of a comparison: what stands in each of its sections."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkd.runner.comparing.comparison import Comparison, Gain, Row
from segkd.runner.console import percent
from segkd.runner.recipe.chosen import chosen
from segkd.runner.recipe.differences import MAY_CHANGE_ON_RESUME
from segkd.runner.run_folder.folder import RunFolder, tile_file
from segkd.runner.scoring.chart import Chart, Series
from segkd.runner.scoring.gallery import Files, build_gallery, image_mious
from segkd.runner.scoring.page import write_page
from segkd.runner.scoring.pictures import file_name

KINDS = {"prediction": "student", "error": "error"}  # what the examples go through -> the title of its tiles
INTERVAL = "95 % interval"  # the column of the table that has a picture of the gain
MOST_GAIN = 0.1  # in IoU, from which on a gain has the full colour


@dataclass(frozen=True)
class Table:
    """Titles of columns, and lines of cells."""

    columns: list[str]
    lines: list[list[str]]

    @property
    def numeric(self) -> set[int]:
        """The columns whose cells are numbers, or `-` where one is not known."""
        cells = enumerate(zip(*self.lines))
        return {place for place, column in cells if all(re.match(r"[+-]?\d|-$", cell) for cell in column)}


def write_comparison_page(comparison: Comparison, file: Path, table: Table, notes: list[str], times: Table) -> None:
    """Writes the page.

    Args:
        table: a line for each row. notes: what its numbers are. times: where the time of each row goes.
    """
    first, trained = comparison.rows[0], comparison.trained
    config = RunFolder(trained[0].runs[0].folder).student.read_config() if trained else {}
    images = examples(comparison)
    mious = [image_mious(row.runs[0].counts) for row in trained or comparison.rows]
    names = map(file_name, first.runs[0].names)
    write_page(
        file,
        "comparison.html",
        title=f"Comparison on {first.recipe.data.dataset}",
        about=f"{sum(len(row.runs) for row in comparison.rows)} runs of {len(comparison.rows)} experiments",
        notes=notes,
        table=table,
        gains=gain_marks(comparison.rows),
        interval=INTERVAL,
        charts=charts(comparison),
        classes=[class_table(comparison, base, above) for base, above in comparison.gains()],
        most_gain=MOST_GAIN,
        times=times,
        gallery=build_gallery(images, dict(zip(names, np.mean(mious, axis=0).tolist())), list(KINDS), "prediction"),
        class_names=comparison.class_names if config.get("palette") else [],
        palette=config.get("palette"),
        settings=settings(comparison),
        runs=[
            (str(run.folder), percent(run.summary["miou"]), run.device) for row in comparison.rows for run in row.runs
        ],
    )


def charts(comparison: Comparison) -> list[Chart]:
    """The mIoU of each row over the iterations, and over the minutes they took, where logs tell them."""
    found = []
    for over, axis in (("iteration", "iteration"), ("training time", "minutes of training")):
        curves = []
        for row in comparison.trained:
            points = [(place, *(100 * miou for miou in mious)) for place, *mious in row.curve(over)]
            points = points if len(row.runs) > 1 else [point[:2] for point in points]
            curves += [Series(row.label, points)] if points else []
        if curves:
            last = max(place for curve in curves for place, *_ in curve.points)
            found.append(Chart(f"validation mIoU (%) by {over}", curves, axis, ends=(0, last)))
    return found


def gain_marks(rows: list[Row]) -> list[dict | None]:
    """Where each row's gain lies between the lowest and the highest of all, in 0..1, for a small picture of it.

    Of one seed it has no interval; None for a row without a gain, or whose gain is not known (NaN).
    """
    gains = [None if row.gain is None or np.isnan(row.gain.mean) else row.gain for row in rows]
    ends = [0.0, *(end for gain in filter(None, gains) for end in _ends(gain))]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0

    def place(value: float) -> float:
        return (value - low) / width

    return [
        gain and {"zero": place(0.0), "mean": place(gain.mean), "ends": tuple(map(place, _ends(gain)))}
        for gain in gains
    ]


def _ends(gain: Gain) -> tuple[float, float]:
    return (gain.mean, gain.mean) if np.isnan(gain.low) else (gain.low, gain.high)


def class_table(comparison: Comparison, base: Row, above: list[Row]) -> dict:
    """A baseline with its IoU of each class, and what each row over it gained there."""
    return {
        "base": base.label,
        "methods": [row.label for row in above],
        "lines": [
            (name, base.per_class[index], [row.gain.per_class[index] for row in above])
            for index, name in enumerate(comparison.class_names)
        ],
    }


def examples(comparison: Comparison) -> dict[str, Files]:
    """The images that the first runs of all rows have looked at, as each saw them at its best: image, label, students."""
    runs = [(row.label, row.runs[0]) for row in comparison.trained]
    seen = {label: RunFolder(run.folder).tile_folders() for label, run in runs}
    best = {label: run.summary["iteration"] for label, run in runs}
    found: dict[str, Files] = {}
    for name in set.intersection(*map(set, seen.values() or [()])):
        folders = {label: own[name][best[label]] for label, own in seen.items() if best[label] in own[name]}
        if len(folders) < len(runs):
            continue
        first = folders[runs[0][0]]
        found[name] = {title: {"prediction": tile_file(first, title)} for title in ("image", "label")}
        for label, folder in folders.items():
            found[name][label] = {kind: tile_file(folder, title) for kind, title in KINDS.items()}
    return found


def settings(comparison: Comparison) -> Table:
    """The settings in which rows differ, those of each row's first run; empty for one that has the default."""
    told = [chosen(row.recipe) for row in comparison.rows]
    keys = dict.fromkeys(key for one in told for key in one)
    keys = [key for key in keys if len({one.get(key) for one in told}) > 1 and not _without_effect(key)]
    labels = [row.label for row in comparison.rows]
    return Table(["setting", *labels], [[key, *(one.get(key, "") for one in told)] for key in keys])


def _without_effect(key: str) -> bool:
    without = MAY_CHANGE_ON_RESUME - {"evaluate.every"} | {"seed"}  # the best of more scores is higher by chance
    return any(key == other or key.startswith(f"{other}.") for other in without)
