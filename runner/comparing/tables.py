"""Writes a comparison down: table.md with what each number is, table.csv with all digits, and the pictures."""

import csv
import io
from pathlib import Path

import numpy as np

from segkd.runner.comparing.comparison import Comparison, Gain, Row
from segkd.runner.comparing.equal_time import SAME_TIME, plain_at_same_time, relative_step, seconds_of_steps
from segkd.runner.comparing.notes import notes
from segkd.runner.comparing.page import INTERVAL, Table, write_comparison_page
from segkd.runner.comparing.pictures import draw_curves, draw_examples, draw_table
from segkd.runner.console import clock, markdown, markdown_text, number, percent
from segkd.runner.run_folder.metrics_file import PHASES
from segkd.runner.run_folder.replacing import write_text

SIGNED = "{:+.2f}"


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
        parts += [markdown_text(f"IoU of each class (%), gains over {base.label}, {base.student}:")]
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
        INTERVAL: "-" if gain is None else interval(row, gain),
        SAME_TIME: percent(plain_at_same_time(row, comparison.rows)[0]),
        **(test_cells(row, comparison.test_split) if comparison.test_split else {}),
        **{title: spread(row.measured(key), title) for key, title in comparison.headline.items()},
        "parameters": number(row.measured("parameters").mean() / 1e6, "{:.2f} M"),
        "GFLOPs": number(row.measured("flops").mean() / 1e9),
        "images/s": number(1000 / row.cost("milliseconds"), "{:.1f}"),
        "step": number(relative_step(row, comparison.rows), "{:.2f}x"),
        "training": clock(row.cost("seconds")),
    }


def test_cells(row: Row, split: str) -> dict[str, str]:
    """The columns on a split that chose nothing."""
    gain = "-" if row.gain is None else spread(row.gain.tested, "(%)", SIGNED)
    return {f"{split} (%)": spread(row.tested, "(%)"), f"{split} gain": gain}


def interval(row: Row, gain: Gain) -> str:
    """`+0.11 to +0.63`, or `one seed` where the row or its baseline has no more; `-` where nothing was scored."""
    if min(len(row.runs), len(gain.over.runs)) == 1:
        return "one seed"
    return "-" if np.isnan(gain.low) else f"{percent(gain.low, SIGNED)} to {percent(gain.high, SIGNED)}"


def spread(values: np.ndarray, title: str, form: str = "{:.2f}") -> str:
    """Mean +- standard deviation over the seeds, in percent under a title that ends in (%)."""
    told = percent if title.endswith("(%)") else number
    known = len(values) > 1 and not np.isnan(values.mean())
    return told(values.mean(), form) + (f" +- {told(deviation(values))}" if known else "")


def deviation(values: np.ndarray) -> float:
    """Standard deviation over the seeds (n - 1 in the denominator); NaN for one seed."""
    return values.std(ddof=1) if len(values) > 1 else np.nan


def phases(row: Row) -> dict[str, float]:
    """What a row's time went into, in seconds, the mean of the runs whose times count; empty where one does not tell."""
    told = [run.phases for run in row.timed]
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
        milliseconds = [
            1000 * seconds_of_steps(row.timed).mean(),
            *(1000 * found.get(phase, np.nan) for phase in shown),
        ]
        cells = [*(number(one, "{:.1f}") for one in milliseconds), number(found.get("scoring"))]
        lines.append([row.student, row.label, *cells])
    return Table(["student", "method", "step", *shown, "an evaluation (s)"], lines)


def class_table(class_names: list[str], base: Row, rows: list[Row]) -> str:
    """A line for each class: the baseline's IoU and the gain of each method."""
    columns = zip(class_names, base.per_class, *(row.gain.per_class for row in rows))
    lines = [[name, percent(iou), *(percent(gain, SIGNED) for gain in gains)] for name, iou, *gains in columns]
    return markdown(["class", base.label, *(row.label for row in rows)], lines)


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
            plain_at_same_time(row, comparison.rows)[0],
            *((row.tested.mean(), deviation(row.tested)) if known else [""] * 2),
            *([""] * 2 if gain is None or not known else (gain.tested.mean(), deviation(gain.tested))),
            *(row.measured(key).mean() for key in ("parameters", "flops")),
            *(1000 / row.cost("milliseconds"), row.cost("seconds")),
            *(seconds_of_steps(row.timed).mean(), relative_step(row, comparison.rows), row.recipe.tuned or ""),
            *(phases(row).get(phase, "") for phase in PHASES),
            *row.per_class,
            *([""] * len(classes) if gain is None else gain.per_class),
        ]
        for found in map(row.measured, comparison.headline):
            values += [found.mean(), deviation(found)]
        writer.writerow(["" if value != value else value for value in values])
    return text.getvalue()
