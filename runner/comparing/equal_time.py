"""What a method costs in training, and what plain training makes of the same time."""

import numpy as np

from segkd.runner.comparing.comparison import Row, learnt_with, most_alike
from segkd.runner.comparing.finished_runs import FinishedRun
from segkd.runner.recipe.differences import without

SAME_TIME = "none, same time"  # the title of its column
# what has this share of a method's time has all of it: clocks are no more exact
AS_LONG = 0.98


def plain_of(row: Row, rows: list[Row]) -> Row | None:
    """The plain training of the same student: what its gain is over, or else the most alike of all.

    A plain row's own is the one that the others' gains are over, or the only one there is. None where there is no such
    row, or none that is more alike than others.
    """
    base = row.gain and row.gain.over
    if base and base.learns_alone and base.learner == row.learner:
        return base
    plain = [one for one in rows if one.learns_alone and not one.program]
    if row.learns_alone:
        plain = [one for one in plain if one.learner == row.learner]
        measures = [one for one in plain if any(other.gain and other.gain.over.runs is one.runs for other in rows)]
        alike = [row] if row in measures else measures or plain
    else:
        alike = most_alike(row, plain)
    return alike[0] if len(alike) == 1 else None


def seconds_of_steps(runs: list[FinishedRun]) -> np.ndarray:
    """Mean seconds of an iteration of each run; scoring and saving are not in them."""
    return np.array([run.summary.get("seconds") for run in runs], dtype=float) / [run.iterations for run in runs]


def relative_step(row: Row, rows: list[Row]) -> float:
    """Its iterations' time beside those of plain training on the same device; NaN where there is none."""
    plain = plain_of(row, rows)
    beside = [] if plain is None else plain.made_on(row.timed[0].device)
    return float(seconds_of_steps(row.timed).mean() / seconds_of_steps(beside).mean()) if beside else np.nan


def plain_at_same_time(row: Row, rows: list[Row]) -> tuple[float, int]:
    """The mIoU that plain training of the same student had after the time this row was trained for.

    Asked are all rows that differ from the row's plain training in nothing but their schedule. Each gives the mean of
    what its runs had come to by then; one that was shorter has ended with its best. The highest counts: a longer one
    is read in the middle of its schedule, where its learning rate is still high, so that a shorter one may be better.
    Asked are runs of the device that the row's times are of, and no row with one of them whose log tells no times.

    Returns:
        The mIoU, and of how many runs it is the mean; NaN and 0 where none was trained for as long: nobody knows what
        it would have had.
    """
    plain, unknown = plain_of(row, rows), (np.nan, 0)
    if plain is None or row.program or (row.learns_alone and _unscheduled(row) == _unscheduled(plain)):
        return unknown
    seconds, found, reached = row.cost("seconds"), [], False
    for other in rows:
        if other.program or not other.learns_alone or _unscheduled(other) != _unscheduled(plain):
            continue
        runs = other.made_on(row.timed[0].device)
        miou = float(np.mean([best_until(run, seconds) for run in runs])) if runs else np.nan
        if not np.isnan(miou):
            found.append((miou, len(runs)))
            reached |= np.mean([run.summary.get("seconds", np.nan) for run in runs]) >= AS_LONG * seconds
    return max(found) if reached else unknown


def best_until(run: FinishedRun, seconds: float) -> float:
    """The best mIoU of a run's evaluations until a time; NaN where there is none, or the log does not tell their times.

    What lies between two evaluations nobody has measured.
    """
    return max((miou for _, time, miou in run.curve if time <= seconds / AS_LONG), default=np.nan)


def _unscheduled(row: Row) -> dict:
    """The settings that a longer training of the same kind has, too: where a search chose them, not its optimizer's."""
    chosen = {"optimizer"} if row.recipe.tuned else set()
    return without(learnt_with(row.recipe), {"schedule"} | chosen)
