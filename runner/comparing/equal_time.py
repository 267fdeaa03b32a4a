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


def seconds_of_steps(row: Row) -> np.ndarray:
    """Mean seconds of an iteration of each run; scoring and saving are not in them."""
    return row.measured("seconds") / [run.iterations for run in row.runs]


def relative_step(row: Row, rows: list[Row]) -> float:
    """Its iterations' time beside those of plain training; NaN where there is none, or on another device."""
    plain = plain_of(row, rows)
    if plain is None or not _on_one_device(row, plain):
        return np.nan
    return float(seconds_of_steps(row).mean() / seconds_of_steps(plain).mean())


def plain_at_same_time(row: Row, rows: list[Row]) -> tuple[float, int]:
    """The mIoU that plain training of the same student had after the time this row was trained for.

    Asked are all rows that differ from the row's plain training in nothing but their schedule. Each gives the mean of
    what its runs had come to by then; one that was shorter has ended with its best. The highest counts: a longer one
    is read in the middle of its schedule, where its learning rate is still high, so that a shorter one may be better.
    Rows of other devices are not asked, nor those with a run whose log tells no times.

    Returns:
        The mIoU, and of how many runs it is the mean; NaN and 0 where none was trained for as long: nobody knows what
        it would have had.
    """
    plain, unknown = plain_of(row, rows), (np.nan, 0)
    if plain is None or row.program or (row.learns_alone and _unscheduled(row) == _unscheduled(plain)):
        return unknown
    seconds, found, reached = row.measured("seconds").mean(), [], False
    for other in rows:
        if other.program or not other.learns_alone:
            continue
        if _unscheduled(other) == _unscheduled(plain) and _on_one_device(row, other):
            miou = float(np.mean([best_until(run, seconds) for run in other.runs]))
            if not np.isnan(miou):
                found.append((miou, len(other.runs)))
                reached |= other.measured("seconds").mean() >= AS_LONG * seconds
    return max(found) if reached else unknown


def best_until(run: FinishedRun, seconds: float) -> float:
    """The best mIoU of a run's evaluations until a time; NaN where there is none, or the log does not tell their times.

    What lies between two evaluations nobody has measured.
    """
    return max((miou for _, time, miou in run.curve if time <= seconds / AS_LONG), default=np.nan)


def _on_one_device(*rows: Row) -> bool:
    """Whether times of all the rows' runs compare."""
    return len({run.device for row in rows for run in row.runs}) == 1


def _unscheduled(row: Row) -> dict:
    """The settings that a longer training of the same kind has, too: where a search chose them, not its optimizer's."""
    chosen = {"optimizer"} if row.recipe.tuned else set()
    return without(learnt_with(row.recipe), {"schedule"} | chosen)
