"""What stands under the table of a comparison: what its numbers are, and in what rows differ beside their method."""

import re
from collections.abc import Iterable
from textwrap import shorten

from segkd.runner.comparing.bootstrap import DRAWS
from segkd.runner.comparing.comparison import LEARNING_ONLY, Comparison, Row, learnt_with
from segkd.runner.comparing.equal_time import SAME_TIME, plain_at_same_time, seconds_of_steps
from segkd.runner.console import clock, counted, number
from segkd.runner.recipe.differences import changes, without

TOLD_BY_SETTING = {
    *("data.batch_size", "data.crop_size"),
    *("schedule.iterations", "schedule.hours", "schedule.seconds", "schedule.measured"),
}
MOST, WIDTH = 4, 100  # changes that are told of a row, and letters of each
UNSTEADY = 1.2  # times of seeds that differ by more than this factor are told


def notes(comparison: Comparison) -> list[str]:
    """What the numbers are, and what a reader must know before comparing rows."""
    rows = comparison.rows
    told = [*_missing(comparison), *_columns(comparison), *_unlabelled_classes(comparison)]
    return [*told, *_gains(rows), *_training(rows), *_times(comparison)]


def _missing(comparison: Comparison) -> list[str]:
    """What should stand in the table, and does not."""
    if not comparison.missing:
        return []
    told = f"Not in the table, as they failed or have not come to their end: {', '.join(comparison.missing)}."
    return [f"{told} A method of which some seeds are missing is shown with the others."]


def _columns(comparison: Comparison) -> list[str]:
    """What the columns are."""
    data = comparison.rows[0].recipe.data
    lines = [
        f"mIoU of the best checkpoint on {comparison.images} images of {data.dataset} {data.scored}, mean +- "
        f"standard deviation over the seeds; {comparison.protocol}. A gain is the difference of two such means. "
        f"Interval: of the gain, over {DRAWS} resamples of the seeds and of the images; images are the same ones for "
        f"both, and so are seeds where both have the same; of few seeds it is too narrow (where all depends on the "
        f"seed, intervals of 2, 3, 5 and 10 hold the true gain in 50, 76, 83 and 91 of 100 comparisons), of one there "
        f"is none.",
        f"step: time of an iteration, what it made for later ones included (caches, compiled networks), beside plain "
        f"training of the same student. training: time of all iterations; scoring and saving are not in it. "
        f"{SAME_TIME}: the best mIoU (%) that plain training of the same student was scored with in the row's training "
        f"time, whatever its own schedule; - where none was given that much on the same device.",
    ]
    if comparison.test_split:
        lines.append(
            f"{comparison.test_split}: mIoU of the same checkpoints on that split, which chose nothing; "
            f"{comparison.test_split} gain: mean +- standard deviation of the differences seed by seed, or the "
            f"difference of the two means where seeds are not the same."
        )
        untested = methods_by_word(
            (f"seed {run.recipe.seed}", row)
            for row in comparison.trained
            for run in row.runs
            if "test" not in run.summary
        )
        if untested:
            lines.append(
                f"Not scored on {comparison.test_split}, so that their rows have no score there: {listed(untested)}. "
                f"distill.py RECIPE data.test_split={comparison.test_split} --resume scores a run that is finished."
            )
    elif comparison.test_sets:
        found = " and ".join(f"{count} images of {split}" for split, count in comparison.test_sets)
        lines.append(f"Scores on {found} are not of the same images, and are left out.")
    return lines


def _unlabelled_classes(comparison: Comparison) -> list[str]:
    """Classes that count in the mean of some runs and not of others, by what these predict."""
    runs, lines = [(row, run, run.counts.sum(0)) for row in comparison.rows for run in row.runs], []  # counts (K, 3)
    for index, name in enumerate(comparison.class_names):
        predicting = [(row, run) for row, run, counts in runs if counts[index, 1] == 0 < counts[index, 2]]
        if comparison.absent == "skip" and 0 < len(predicting) < len(runs):
            who = listed(methods_by_word((f"seed {run.recipe.seed}", row) for row, run in predicting))
            lines.append(
                f"No label has a pixel of {name}. It counts as 0 in the mean of the runs that predict it somewhere, and "
                f"not at all in that of the others, which can be a point of mIoU and more (evaluate.absent): {who}."
            )
    return lines


def _gains(rows: list[Row]) -> list[str]:
    """What gains are over."""
    lines = []
    unpaired = methods_by_word(
        (row.gain.over.label, row) for row in rows if row.gain is not None and not row.gain.paired
    )
    if unpaired:
        words = "; ".join(f"{who} and {base}" for base, who in unpaired.items())
        lines.append(f"Not of the same seeds, so that each one's are drawn apart for the interval: {words}.")
    over = methods_by_word((row.gain.over.label, row) for row in rows if row.gain is not None)
    if len(over) == 1:
        lines.append(f"Gains are over {next(iter(over))}.")
    elif over:
        lines.append(f"Gains: {'; '.join(f'{who} over {base}' for base, who in over.items())}.")
    return lines


def _training(rows: list[Row]) -> list[str]:
    """How the rows were trained, as far as that differs."""
    lines = []
    tuned = methods_by_word((run.recipe.tuned or "not tuned here", row) for row in rows for run in row.runs)
    if any(run.recipe.tuned for row in rows for run in row.runs):
        lines.append(f"How settings were chosen: {listed(tuned)}.")
    training = methods_by_word((setting(row), row) for row in rows)
    if len(training) > 1:
        lines.append(f"Trained differently: {listed(training)}.")
    changed = methods_by_word((words, row) for row in rows if row.gain and (words := _changed(row, row.gain.over)))
    if changed:
        lines.append(
            f"Rows that differ from what their gain is over (there) in more than the method: {listed(changed)}."
        )
    scored = [(row, len(run.curve)) for row in rows for run in row.runs if run.curve]
    if len({count for _, count in scored}) > 1:
        counts = methods_by_word((counted(count, "time"), row) for row, count in scored)
        lines.append(f"Scored more or less often, and the best of more scores is higher by chance: {listed(counts)}.")
    versions = methods_by_word((_short(run.code), row) for row in rows for run in row.runs)
    if len(versions) > 1:
        lines.append(f"Trained with different versions of the code: {listed(versions)}.")
    unfinished = methods_by_word(
        (f"seed {run.recipe.seed} {run.unfinished}", row) for row in rows for run in row.runs if run.unfinished
    )
    if unfinished:
        lines.append(f"Not finished: {'; '.join(f'{who}, {how}' for how, who in unfinished.items())}.")
    return lines


def _times(comparison: Comparison) -> list[str]:
    """What keeps times from being compared."""
    lines, rows = [], comparison.rows
    plain = {row: plain_at_same_time(row, rows)[1] for row in rows}
    fewer = methods_by_word((counted(count, "run"), row) for row, count in plain.items() if 0 < count < len(row.runs))
    if fewer:
        lines.append(f"{SAME_TIME} is of fewer runs than the row: {listed(fewer)}.")
    unsteady = [
        f"{row.label} {number(seconds.min())} to {number(seconds.max())} s"
        for row in comparison.trained
        if (seconds := seconds_of_steps(row.timed)).max() > UNSTEADY * seconds.min()
    ]
    if unsteady:
        lines.append(
            f"An iteration's time differs from seed to seed, by what a first run made for the others or by what else "
            f"the machine did: {'; '.join(unsteady)}."
        )
    devices = methods_by_word((run.device, row) for row in rows for run in row.runs)
    if len(devices) > 1:
        lines.append(
            f"Made on different devices, which times do not compare across, so that a row's are those of the device that "
            f"most of its runs were made on, and stand beside others of that device alone: {listed(devices)}."
        )
    return lines


def methods_by_word(pairs: Iterable[tuple[str, Row]]) -> dict[str, str]:
    """(word, row) pairs -> word: the labels of its rows."""
    found: dict[str, dict[str, None]] = {}
    for word, row in pairs:
        found.setdefault(word, {})[row.label] = None
    return {word: ", ".join(methods) for word, methods in found.items()}


def listed(methods: dict[str, str]) -> str:
    """`none, KD: 400 iterations; CWD: 800 iterations` of words and their methods."""
    return "; ".join(f"{who}: {word}" for word, who in methods.items())


def _changed(row: Row, base: Row) -> str:
    """In what a row's student learns otherwise than its baseline's, beside its teachers and what `setting` tells."""
    before, now = (_own_learning(one) for one in (base, row))
    shared = before["losses"].keys() & now["losses"].keys()
    for values in (before, now):
        values["losses"] = {label: term for label, term in values["losses"].items() if label in shared}
    found = [shorten(change, WIDTH, placeholder=" ...") for change in changes(before, now)]
    more = [f"{len(found) - MOST} more"] if len(found) > MOST else []
    return " and ".join(found[:MOST] + more)


def _own_learning(row: Row) -> dict:
    """What a student learns with: all but teachers, terms that have one, and images that are none of the data set's."""
    values = without(learnt_with(row.recipe), {*TOLD_BY_SETTING, "data.unlabelled", "data.extra"})
    student = values.pop("networks")["student"]
    student["args"] = {name: value for name, value in student["args"].items() if name not in LEARNING_ONLY}
    terms = {term["label"] or term["loss"]: term for term in values["losses"] if term["from"] is None}
    return values | {"student": student, "losses": terms}


def _short(code: str | None) -> str:
    """Commits by their first letters."""
    return "an unknown one" if code is None else re.sub("[0-9a-f]{40}", lambda found: found[0][:8], code)


def setting(row: Row) -> str:
    """`40000 iterations of 16 crops of 360 x 360`."""
    data, schedule = row.recipe.data, row.recipe.schedule
    done = sorted({run.iterations for run in row.runs})
    words = f"{done[0]} to {done[-1]} iterations" if len(done) > 1 else f"{done[0]} iterations"
    if schedule.budget is not None:
        words += f" (as fit into {clock(schedule.budget)})"
    return words + f" of {data.batch_size} crops of {' x '.join(map(str, data.crop_size))}"
