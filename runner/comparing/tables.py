"""Writes a comparison down: table.md with what each number is, table.csv with all digits, and the pictures."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from segkd.runner.comparing.bootstrap import DRAWS
from segkd.runner.comparing.comparison import Comparison, Gain, Row
from segkd.runner.comparing.equal_time import plain_at_same_time, relative_step, seconds_of_steps
from segkd.runner.comparing.page import INTERVAL, Table, write_comparison_page
from segkd.runner.comparing.pictures import draw_curves, draw_examples, draw_table
from segkd.runner.console import clock, markdown, markdown_text, number, percent
from segkd.runner.run_folder.metrics_file import PHASES
from segkd.runner.run_folder.replacing import write_text

SIGNED = "{:+.2f}"
SAME_TIME = "none, same time"
UNSTEADY = 1.2  # times of seeds that differ by more than this factor are told


def write_comparison(comparison: Comparison, folder: Path) -> str:
    """Writes table.md, table.csv, report.html and the pictures into a folder, over those of an earlier comparison.

    Returns:
        What table.md says, for the console.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = report(comparison)
    pictures = ["table", "curves", "curves_over_time"]
    pictures += ["examples"] if draw_examples(comparison, folder / "examples.png") else []
    shown = "\n\n".join(f"![{name}]({name}.png)" for name in pictures)
    write_text(folder / "table.md", f"{text}\n\n{shown}\n")
    write_text(folder / "table.csv", table_csv(comparison))
    main, times = main_table(comparison), time_table(comparison.rows)
    write_comparison_page(comparison, folder / "report.html", main, notes(comparison), times)
    draw_table(comparison, main.columns, main.lines, folder / "table.png")
    draw_curves(comparison, folder / "curves.png", over="iteration")
    draw_curves(comparison, folder / "curves_over_time.png", over="training time")
    return text


def report(comparison: Comparison) -> str:
    """The table, what its numbers are, where the time goes, and the gains of each class, as Markdown."""
    main, times = main_table(comparison), time_table(comparison.rows)
    parts = [markdown(main.columns, main.lines), *map(markdown_text, notes(comparison))]
    if times.lines:
        parts += ["Where a step's time goes (ms):", markdown(times.columns, times.lines)]
    for base, above in comparison.gains():
        parts += [markdown_text(f"IoU of each class (%), gains over {base.method}, {base.student}:")]
        parts += [class_table(comparison.class_names, base, above)]
    return "\n\n".join(parts)


def main_table(comparison: Comparison) -> Table:
    """The table: a line for each row."""
    lines = [cells(row, comparison) for row in comparison.rows]
    return Table(list(lines[0]), [list(line.values()) for line in lines])


def cells(row: Row, comparison: Comparison) -> dict[str, str]:
    """One line of the table, by the titles of its columns."""
    data, gain = row.recipe.data, row.gain
    return {
        "data set": data.dataset + (f", {data.labelled} labelled" if data.labelled else ""),
        "teacher (mIoU %)": row.teacher,
        "student": row.student,
        "method": row.method,
        "seeds": str(len(row.runs)),
        "mIoU (%)": spread(row.miou, "(%)"),
        "gain": "-" if gain is None else percent(gain.mean, SIGNED),
        INTERVAL: "-" if gain is None else interval(gain),
        SAME_TIME: percent(plain_at_same_time(row, comparison.rows)),
        **(test_cells(row, comparison.test_split) if comparison.test_split else {}),
        **{title: spread(row.measured(key), title) for key, title in comparison.headline.items()},
        "parameters": number(row.measured("parameters").mean() / 1e6, "{:.2f} M"),
        "GFLOPs": number(row.measured("flops").mean() / 1e9),
        "images/s": number(1000 / row.measured("milliseconds").mean(), "{:.1f}"),
        "step": number(relative_step(row, comparison.rows), "{:.2f}x"),
        "training": clock(row.measured("seconds").mean()),
    }


def test_cells(row: Row, split: str) -> dict[str, str]:
    """The columns on a split that chose nothing."""
    gain = "-" if row.gain is None else spread(row.gain.tested, "(%)", SIGNED)
    return {f"{split} (%)": spread(row.tested, "(%)"), f"{split} gain": gain}


def interval(gain: Gain) -> str:
    """`+0.11 to +0.63`, or why there is none."""
    return "one seed" if np.isnan(gain.low) else f"{percent(gain.low, SIGNED)} to {percent(gain.high, SIGNED)}"


def spread(values: np.ndarray, title: str, form: str = "{:.2f}") -> str:
    """Mean +- standard deviation over the seeds, in percent under a title that ends in (%)."""
    told = percent if title.endswith("(%)") else number
    known = len(values) > 1 and not np.isnan(values.mean())
    return told(values.mean(), form) + (f" +- {told(deviation(values))}" if known else "")


def deviation(values: np.ndarray) -> float:
    """Standard deviation over the seeds (n - 1 in the denominator); NaN for one seed."""
    return values.std(ddof=1) if len(values) > 1 else np.nan


def notes(comparison: Comparison) -> list[str]:
    """What the numbers are, and what a reader must know before comparing rows."""
    rows = comparison.rows
    data = rows[0].recipe.data
    lines = [
        f"mIoU of the best checkpoint on {comparison.images} images of {data.dataset} {data.scored}, mean +- "
        f"standard deviation over the seeds; {comparison.protocol}. A gain is over the seeds both have. Interval: of "
        f"the gain, over {DRAWS} resamples of the seeds and of the images, the same ones for both; of few seeds it is "
        f"too narrow (where all depends on the seed, intervals of 2, 3, 5 and 10 hold the true gain in 50, 76, 83 and "
        f"91 of 100 comparisons), of one there is none.",
        f"step: time of an iteration, what it made for later ones included (caches, compiled networks), beside plain "
        f"training of the same student. training: time of all iterations; scoring and saving are not in it. "
        f"{SAME_TIME}: the best mIoU (%) that plain training of the same student has come to in the row's training "
        f"time, whatever its own schedule; - where none was given that much on the same device.",
    ]
    if comparison.test_split:
        lines.append(
            f"{comparison.test_split}: mIoU of the same checkpoints on that split, which chose nothing; "
            f"{comparison.test_split} gain: mean +- standard deviation of the differences of the seeds both have."
        )
    elif comparison.test_sets:
        found = " and ".join(f"{count} images of {split}" for split, count in comparison.test_sets)
        lines.append(f"Scores on {found} are not of the same images, and are left out.")
    unpaired = methods_by_word(
        (row.gain.over.method, row) for row in rows if row.gain is not None and not row.gain.paired
    )
    if unpaired:
        words = "; ".join(f"{who} and {base}" for base, who in unpaired.items())
        lines.append(f"Without a seed in common, so that gains are of the means over all their seeds: {words}.")
    over = methods_by_word((row.gain.over.method, row) for row in rows if row.gain is not None)
    if len(over) == 1:
        lines.append(f"Gains are over {next(iter(over))}.")
    elif over:
        lines.append(f"Gains: {'; '.join(f'{who} over {base}' for base, who in over.items())}.")
    tuned = methods_by_word((run.recipe.tuned or "not tuned here", row) for row in rows for run in row.runs)
    if any(run.recipe.tuned for row in rows for run in row.runs):
        lines.append(f"How settings were chosen: {'; '.join(f'{who}: {how}' for how, who in tuned.items())}.")
    training = methods_by_word((setting(row), row) for row in rows)
    if len(training) > 1:
        lines.append(f"Trained differently: {'; '.join(f'{who}: {how}' for how, who in training.items())}.")
    unfinished = methods_by_word(
        (f"seed {run.recipe.seed} {run.unfinished}", row) for row in rows for run in row.runs if run.unfinished
    )
    if unfinished:
        lines.append(f"Not finished: {'; '.join(f'{who}, {how}' for how, who in unfinished.items())}.")
    unsteady = [
        f"{row.method} {number(seconds.min())} to {number(seconds.max())} s"
        for row in comparison.trained
        if (seconds := seconds_of_steps(row)).max() > UNSTEADY * seconds.min()
    ]
    if unsteady:
        lines.append(
            f"An iteration's time differs from seed to seed, by what a first run made for the others or by what else "
            f"the machine did: {'; '.join(unsteady)}."
        )
    devices = methods_by_word((run.device, row) for row in rows for run in row.runs)
    if len(devices) > 1:
        words = "; ".join(f"{who}: {device}" for device, who in devices.items())
        lines.append(f"Made on different devices, so that images/s and training times do not compare: {words}.")
    return lines


def phases(row: Row) -> dict[str, float]:
    """What a row's time went into, in seconds, the mean of its runs; empty where one of them does not tell."""
    told = [run.phases for run in row.runs]
    found = [phase for phase in PHASES if all(told) and any(phase in one for one in told)]
    return {phase: float(np.mean([one.get(phase, 0.0) for one in told])) for phase in found}


def time_table(rows: list[Row]) -> Table:
    """A line for each row: milliseconds of an iteration, and those of each phase; seconds of an evaluation.

    No line where no row's log tells.
    """
    shown = [phase for phase in PHASES if phase != "scoring" and any(phase in phases(row) for row in rows)]
    lines = []
    for row in rows if any(map(phases, rows)) else ():
        found = phases(row)
        milliseconds = [1000 * seconds_of_steps(row).mean(), *(1000 * found.get(phase, np.nan) for phase in shown)]
        cells = [*(number(one, "{:.1f}") for one in milliseconds), number(found.get("scoring"))]
        lines.append([row.student, row.method, *cells])
    return Table(["student", "method", "step", *shown, "an evaluation (s)"], lines)


def methods_by_word(pairs: Iterable[tuple[str, Row]]) -> dict[str, str]:
    """(word, row) pairs -> word: the methods of its rows."""
    found: dict[str, dict[str, None]] = {}
    for word, row in pairs:
        found.setdefault(word, {})[row.method] = None
    return {word: ", ".join(methods) for word, methods in found.items()}


def setting(row: Row) -> str:
    """`40000 iterations of 16 crops of 360 x 360, scored every 800`: the best of more scores is higher by chance."""
    data, schedule = row.recipe.data, row.recipe.schedule
    done = sorted({run.iterations for run in row.runs})
    words = f"{done[0]} to {done[-1]} iterations" if len(done) > 1 else f"{done[0]} iterations"
    if schedule.budget is not None:
        words += f" (as fit into {clock(schedule.budget)})"
    words += f" of {data.batch_size} crops of {' x '.join(map(str, data.crop_size))}"
    every = row.recipe.evaluate.every
    return words + (f", scored every {every}" if every < done[-1] else "")


def class_table(class_names: list[str], base: Row, rows: list[Row]) -> str:
    """A line for each class: the baseline's IoU and the gain of each method."""
    columns = zip(class_names, base.per_class, *(row.gain.per_class for row in rows))
    lines = [[name, percent(iou), *(percent(gain, SIGNED) for gain in gains)] for name, iou, *gains in columns]
    return markdown(["class", base.method, *(row.method for row in rows)], lines)


def table_csv(comparison: Comparison) -> str:
    """The table for programs: scores as shares, not percent, all digits; empty where there is no number."""
    text = io.StringIO()
    classes, known = comparison.class_names, comparison.test_split is not None
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["dataset", "split", "protocol", "teacher", "student", "method", "seeds", "runs", "miou", "miou_std"]
        + ["baseline", "gain", "gain_low", "gain_high", "none_same_time"]
        + ["test_miou", "test_miou_std", "test_gain", "test_gain_std"]
        + ["parameters", "flops", "images_per_second"]
        + ["training_seconds", "step_seconds", "step_relative", "tuned"]
        + [f"seconds/{phase}" for phase in PHASES]
        + [f"iou/{name}" for name in classes]
        + [f"gain/{name}" for name in classes]
        + [column for key in comparison.headline for column in (key, f"{key}_std")]
    )
    for row in comparison.rows:
        gain, data = row.gain, row.recipe.data
        values = [
            *(data.dataset, data.scored, comparison.protocol, row.teacher, row.student, row.method),
            " ".join(str(run.recipe.seed) for run in row.runs),
            " ".join(str(run.folder) for run in row.runs),
            *(row.miou.mean(), deviation(row.miou)),
            *([""] * 4 if gain is None else (gain.over.method, gain.mean, gain.low, gain.high)),
            plain_at_same_time(row, comparison.rows),
            *((row.tested.mean(), deviation(row.tested)) if known else [""] * 2),
            *([""] * 2 if gain is None or not known else (gain.tested.mean(), deviation(gain.tested))),
            *(row.measured(key).mean() for key in ("parameters", "flops")),
            *(1000 / row.measured("milliseconds").mean(), row.measured("seconds").mean()),
            *(seconds_of_steps(row).mean(), relative_step(row, comparison.rows), row.recipe.tuned or ""),
            *(phases(row).get(phase, "") for phase in PHASES),
            *row.per_class,
            *([""] * len(classes) if gain is None else gain.per_class),
        ]
        for found in map(row.measured, comparison.headline):
            values += [found.mean(), deviation(found)]
        writer.writerow(["" if value != value else value for value in values])
    return text.getvalue()
