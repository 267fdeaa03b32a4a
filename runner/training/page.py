"""report.html of a run, finished or under way: what stands in each of its sections."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from segkd.runner.console import clock, number, percent
from segkd.runner.recipe.chosen import chosen
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import phase_seconds, training_seconds
from segkd.runner.scoring.chart import Chart, Series, in_rows, thinned, with_prefix
from segkd.runner.scoring.evaluation import build_metrics, text_of
from segkd.runner.scoring.gallery import build_gallery, files_of_run, image_mious, spread
from segkd.runner.scoring.grid import Grid
from segkd.runner.scoring.held_out import TOTAL
from segkd.runner.scoring.page import write_page
from segkd.runner.scoring.pictures import file_name

SCORES_OF_CLASSES = ("iou_per_class", "accuracy_per_class", "dice_per_class")


@dataclass(frozen=True)
class Shown:
    """The evaluation a page tells of.

    Attributes:
        iteration: after which it was made. scores: its values, as the log has them.
        counts: what images.npz holds of it: names, counts and matrix, the last of which older runs have not; None where
            the loss on held-out images judges.
        rows: the closing table; empty until the run has come to its end. tested: the scores on data.test_split, if any.
    """

    iteration: int
    scores: dict
    counts: dict[str, np.ndarray] | None = None
    rows: list[dict] = field(default_factory=list)
    tested: dict = field(default_factory=dict)


def write_run_page(recipe: Recipe, dataset: Dataset, shown: Shown) -> None:
    """Writes the page of a run from what its folder holds, and the evaluation it is to tell of.

    Args:
        dataset: of the evaluation, whose classes and colours are shown.
    """
    run = RunFolder(recipe.folder)
    history, teachers = run.read_rows(), run.read_teachers()
    write_page(
        run.page_file,
        "run.html",
        title=recipe.name,
        about=about(recipe),
        state=state(recipe, shown, history),
        numbers=numbers(recipe, shown, history),
        rows=shown.rows,
        judged=judged(shown),
        charts=charts(history, teachers, recipe.schedule.iterations),
        seen=None if shown.counts is None else seen(recipe, dataset, shown, run.tile_folders(), teachers),
        phases=phases(history, recipe),
        settings=chosen(recipe),
        environment=environment(run),
    )


def seen(recipe: Recipe, dataset: Dataset, shown: Shown, folders: dict[str, dict[int, Path]], teachers: dict) -> dict:
    """What the sections on classes and images show.

    Args:
        folders: image -> iteration -> the folder of its tiles. teachers: the scores of the frozen networks.
    """
    names, counts = list(dataset.class_names), shown.counts
    mious = dict(zip(map(file_name, counts["names"].tolist()), image_mious(counts["counts"]).tolist()))
    steps = spread((step for own in folders.values() for step in own), shown.iteration)
    titles = ["image", "label", *(name for name in recipe.networks if name != "student"), "student", "error"]
    further = {name: metric for name, metric in build_metrics(recipe, dataset).items() if name != "confusion"}
    return {
        "class_names": names,
        "palette": dataset.palette,
        "classes": classes(names, shown, teachers),
        "teachers": [name for name, scores in teachers.items() if scores.get("iou_per_class")],
        "scores": shown.scores,
        "further": [text for text in text_of(further, shown.scores).split("\n\n") if text],
        "gallery": build_gallery(files_of_run(folders, titles, steps), mious, steps, shown.iteration),
        "grid": Grid(counts["matrix"], names) if "matrix" in counts else None,
    }


def about(recipe: Recipe) -> str:
    """What is learnt from what, in a line."""
    titles = {name: network.title for name, network in recipe.networks.items()}
    student = titles.pop("student")
    others = "".join(f", {name} {title}" for name, title in titles.items())
    data = recipe.data
    how = "judged by the loss on held-out images" if recipe.judged_by_loss else protocol_words(recipe)
    return f"{recipe.method_name}: student {student}{others}; {data.dataset} {data.scored}, {how}"


def state(recipe: Recipe, shown: Shown, history: list[dict]) -> str:
    """How far the run has come, and which evaluation the page tells of."""
    done, end = max((row["iteration"] for row in history), default=0), recipe.schedule.iterations
    scored = sum(row.get(judged(shown)) is not None for row in history)
    if not shown.rows:
        return f"Under way: {done} of {end} iterations. Shown is the evaluation after {shown.iteration}."
    how = f"Finished: {end} iterations" if done >= end else f"Delivered after {done} of {end} iterations"
    return f"{how}. Shown is the checkpoint of iteration {shown.iteration}, the best of {scored}."


def judged(shown: Shown) -> str:
    """The value that judges the run, as the log calls it."""
    return TOTAL if shown.counts is None else "miou"


def numbers(recipe: Recipe, shown: Shown, history: list[dict]) -> list[tuple[str, str, str]]:
    """What matters most: (number, what it is, beside what)."""
    found, teacher, where = [], None, f"on {recipe.data.scored}, iteration {shown.iteration}"
    *others, ours = shown.rows or [None]
    if shown.counts is None:
        found.append((number(shown.scores[TOTAL], "{:.5g}"), "loss on held-out images", where))
    else:
        miou = shown.scores["miou"]
        found.append((f"{percent(miou)} %", "mIoU of the student", where))
        if shown.tested:
            what = f"mIoU on {shown.tested['split']}"
            found.append(
                (f"{percent(shown.tested['miou'])} %", what, f"{shown.tested['images']} images, which chose nothing")
            )
        if recipe.baseline is not None and others:
            base = others[-1]
            if base["miou"] is not None:
                over = f"over {base['network']}" + (f", which had {base['unlike']}" if base["unlike"] else "")
                found.append((percent(miou - base["miou"], "{:+.2f}"), "mIoU gained", over))
        teachers = [row for row in others if row["network"] in recipe.networks and row["miou"]]
        teacher = max(teachers, key=lambda row: row["miou"], default=None)
    if teacher is not None:
        share = f"{percent(miou / teacher['miou'], '{:.0f}')} %"
        found.append((share, "of the teacher's mIoU", f"which is {percent(teacher['miou'])} %"))
    if ours is not None:
        for key, what, told in (("parameters", "parameters", millions), ("milliseconds", "an image", milliseconds)):
            found.append((told(ours[key]), what, f"the teacher: {told(teacher[key])}" if teacher else ""))
    seconds = training_seconds(history, recipe.data.batch_size)
    return [*found, (clock(seconds), "of training", "scoring and saving are not in it")]


def millions(count: float) -> str:
    """`0.75 M`."""
    return f"{count / 1e6:.2f} M"


def milliseconds(value: float) -> str:
    """`3.6 ms`."""
    return f"{value:.1f} ms"


def charts(history: list[dict], teachers: dict[str, dict], iterations: int) -> list[Chart]:
    """The curves of what the log holds, over all iterations of the run."""
    ends = (0, iterations)
    student = [Series("student", in_rows(history, "miou", 100))] if in_rows(history, "miou") else []
    loss = [Series("weighted sum", in_rows(history, TOTAL))] if in_rows(history, TOTAL) else []
    levels = [
        Series(name, [(end, 100 * scores["miou"]) for end in ends], dashed=True)
        for name, scores in teachers.items()
        if scores["miou"] is not None
    ]
    pulls = [shares(row, "gradient/") for row in history if any(key.startswith("gradient/") for key in row)]
    rate = [Series("learning rate", thinned(in_rows(history, "lr")))] if in_rows(history, "lr") else []
    found = [
        Chart("mIoU (%)", [*student, *with_prefix(history, "miou/", 100), *levels], ends=ends),
        *(
            Chart(title, curves, ends=ends, floor=0)
            for title, curves in {
                "loss on held-out images": [*loss, *with_prefix(history, "held_out/")],
                "weighted loss terms": with_prefix(history, "weighted/"),
                "learning rate": rate,
                "share of each term in the gradients (%)": with_prefix(pulls, "gradient/", 100),
                "cosine to the cross entropy's gradient": with_prefix(history, "cosine/"),
            }.items()
        ),
    ]
    return [chart for chart in found if chart.series]


def shares(row: dict, prefix: str) -> dict:
    """A row whose values of a prefix are shares of their sum."""
    values = {key: value for key, value in row.items() if key.startswith(prefix) and value is not None}
    total = sum(values.values())
    return {"iteration": row["iteration"], **{key: value / total for key, value in values.items() if total > 0}}


def classes(names: list[str], shown: Shown, teachers: dict[str, dict]) -> list[dict]:
    """A line for each class: its share of the labels' pixels, its scores, and its IoU of each teacher."""
    pixels = shown.counts["counts"][..., 1].sum(0)  # (K,)
    lists = {key.removesuffix("_per_class"): shown.scores[key] for key in SCORES_OF_CLASSES}
    theirs = [scores["iou_per_class"] for scores in teachers.values() if scores.get("iou_per_class")]
    return [
        {
            "name": name,
            "pixels": pixels[index] / max(pixels.sum(), 1),
            "teachers": [ious[index] for ious in theirs],
            **{key: values[index] for key, values in lists.items()},
        }
        for index, name in enumerate(names)
    ]


def phases(history: list[dict], recipe: Recipe) -> list[tuple[str, float, float]]:
    """(phase, milliseconds of a step, their share of it); nothing for a log that does not tell."""
    found = phase_seconds(history)
    found.pop("scoring", None)
    if not found:
        return []
    step = training_seconds(history, recipe.data.batch_size) / max(row["iteration"] for row in history)
    return [(phase, 1000 * seconds, seconds / step) for phase, seconds in found.items()]


def environment(run: RunFolder) -> dict[str, str]:
    """What the run was made with."""
    told = json.loads(run.environment_file.read_text())
    packages = ", ".join(f"{name} {version}" for name, version in told.pop("packages", {}).items())
    command = shlex.join(told.pop("command", []))
    return {**{key: str(value) for key, value in told.items()}, "packages": packages, "command": command}
