"""Runs side by side: which of them are one experiment, and what each gained over its baseline."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Literal

import numpy as np

from segkd.runner.comparing.bootstrap import iou, mean_iou, resampled_gains, resamples
from segkd.runner.comparing.finished_runs import FinishedRun
from segkd.runner.console import percent
from segkd.runner.recipe import parts
from segkd.runner.recipe.differences import MAY_CHANGE_ON_RESUME, changes, without
from segkd.runner.recipe.mistakes import did_you_mean
from segkd.runner.recipe.schema import Recipe

# what may differ between runs of one experiment: nothing in it changes what is learnt; all are scored in one way
IRRELEVANT_TO_RESULTS = MAY_CHANGE_ON_RESUME | {"name", "seed", "method"} | {"evaluate"}
# arguments of a network that some losses need and that leave what is delivered as it is
LEARNING_ONLY = {"distill_heads", "projection_dropout"}


@dataclass(frozen=True)
class Gain:
    """What a row has over its baseline: in mIoU with its 95 % interval, and in the IoU of each class (NaN: absent).

    All are differences of the means over all runs of the two. Of one seed nobody knows how far the next one is away:
    `low` and `high` are NaN where one of the two has a single run.

    Attributes:
        paired: whether both have the same seeds; only then a resample draws the same ones of both.
        tested: (S,) in mIoU on data.test_split, of each seed where both have the same, else (1,) of their means; NaN:
            not scored.
    """

    over: "Row"
    paired: bool
    mean: float
    low: float
    high: float
    per_class: np.ndarray
    tested: np.ndarray


@dataclass(frozen=True, eq=False)
class Row:
    """One experiment: the runs that differ in their seed only, in its order. `miou` has a share for each run.

    Attributes:
        label: what a curve, a column or a note calls it: its method, with as much more as tells it from other rows.
    """

    method: str
    student: str
    teacher: str
    runs: list[FinishedRun]
    miou: np.ndarray
    per_class: np.ndarray
    gain: Gain | None = None
    label: str = ""

    @property
    def recipe(self) -> Recipe:
        """The recipe of the first run."""
        return self.runs[0].recipe

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return [run.recipe.seed for run in self.runs]

    @property
    def program(self) -> str:
        """Of a row of exported files, what they are, such as INT8."""
        return self.runs[0].program

    @property
    def learns_alone(self) -> bool:
        """Whether its student learns from labels only."""
        return self.recipe.learns_alone

    @property
    def learner(self) -> tuple:
        """What student it is: source, model and arguments, less those that only some losses need."""
        network = self.recipe.networks["student"]
        kept = {name: value for name, value in network.args.items() if name not in LEARNING_ONLY}
        return network.source, network.model, kept

    def curve(self, over: Literal["iteration", "training time"]) -> list[tuple[float, float, float, float]]:
        """(place, mean, lowest, highest mIoU of the seeds) at each iteration they all were scored at.

        Places are iterations, or the minutes they took in the runs whose times count, without scoring; a row whose log
        tells none has no curve there.
        """
        curves = [{iteration: (seconds, miou) for iteration, seconds, miou in run.curve} for run in self.runs]
        shared = sorted(set(curves[0]).intersection(*curves[1:]))
        points = np.array([[curve[iteration] for iteration in shared] for curve in curves])  # (S, T, 2)
        if not shared:
            return []
        counts = [run.device == self.timed[0].device for run in self.runs]
        seconds, values = points[counts, :, 0].mean(0), points[..., 1]
        places = np.array(shared) if over == "iteration" else seconds / 60
        found = np.stack([places, values.mean(0), values.min(0), values.max(0)], axis=1)
        return [tuple(point) for point in found[~np.isnan(found).any(1)].tolist()]

    @property
    def tested(self) -> np.ndarray:
        """The mIoU on data.test_split, one for each run; NaN where it was not scored."""
        return np.array([run.summary.get("test", {}).get("miou") for run in self.runs], dtype=float)

    @property
    def timed(self) -> list[FinishedRun]:
        """The runs of the device that most of them were made on: times of several devices do not compare."""
        devices = [run.device for run in self.runs]
        return self.made_on(max(devices, key=devices.count))

    def made_on(self, device: str) -> list[FinishedRun]:
        """The runs of one device."""
        return [run for run in self.runs if run.device == device]

    def cost(self, key: str) -> float:
        """The mean of a time in the summaries of the runs whose times count; NaN where one has none."""
        return float(np.array([run.summary.get(key) for run in self.timed], dtype=float).mean())

    def measured(self, key: str) -> np.ndarray:
        """A number in the summaries, one for each run; NaN where it is not there."""
        return np.array([run.summary.get(key) for run in self.runs], dtype=float)


@dataclass(frozen=True)
class Comparison:
    """Rows that may be compared: one data set, split and protocol, the same images and labels.

    Attributes:
        absent: what a class counts that never occurs. headline: the values of further metrics that all runs have, with their titles.
        missing: names of runs that belong to the rows, and have not come to their end.
    """

    rows: list[Row]
    protocol: str
    absent: Literal["skip", "zero"]
    class_names: list[str]
    images: int
    headline: dict[str, str]
    missing: list[str]

    @property
    def test_split(self) -> str | None:
        """The further split that runs were scored on; None where there is none, or not the same one."""
        return self.test_sets[0][0] if len(self.test_sets) == 1 else None

    @property
    def test_sets(self) -> list[tuple[str, int]]:
        """The further splits that runs were scored on, each with its number of images."""
        tested = [run.summary["test"] for row in self.rows for run in row.runs if "test" in run.summary]
        return sorted({(scores["split"], scores["images"]) for scores in tested})

    @property
    def trained(self) -> list[Row]:
        """The rows that are trainings, and no exported files."""
        return [row for row in self.rows if not row.program]

    def gains(self) -> list[tuple[Row, list[Row]]]:
        """Each baseline with the rows whose gains are over it."""
        pairs = [
            (base, [row for row in self.rows if row.gain and row.gain.over.runs is base.runs]) for base in self.rows
        ]
        return [(base, above) for base, above in pairs if above]


def compare(
    runs: list[FinishedRun], *, baseline: str | None = None, sort: bool = False, missing: Iterable[str] = ()
) -> Comparison:
    """Groups runs by experiment and sets each beside its baseline.

    Args:
        baseline: a method or a run; default: the experiments that learn from no other network, each for those with
            the same student and, of several, the one whose settings differ least; an exported file's is its own run.
        sort: by mIoU, the best first; default: those that learn from no other network first, then as given.
        missing: names of runs that should stand among them and have not come to their end.

    Raises:
        ValueError: two runs cannot be compared, or it is not clear what to compare with.
    """
    _refuse_what_differs(runs)
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(run.program + _experiment(run), []).append(run)
    rows = _label(_distinguish([_row(group) for group in groups.values()]))
    rows.sort(key=lambda row: (-row.miou.mean() if sort else 0, not row.learns_alone))
    baselines = _baselines(rows, baseline)
    for index, row in enumerate(rows):
        trained = trained_as(row, rows) if row.program and baseline is None else None
        base = trained or (None if row in baselines else _baseline_of(row, baselines, only=baseline is not None))
        if base is not None:
            rows[index] = replace(row, gain=_gain(row, base, beside=_at(trained, row.seeds) if trained else base))
    one = runs[0]
    return Comparison(
        rows, one.protocol, one.absent, one.class_names, len(one.names), _shared_headline(runs), list(missing)
    )


def _shared_headline(runs: list[FinishedRun]) -> dict[str, str]:
    """The headline values of the metrics that were computed in all runs with the same arguments, with their titles."""
    first, *others = (run.summary.get("metrics", {}) for run in runs)
    shared = [name for name, values in first.items() if all(other.get(name) == values for other in others)]
    titles = {key: title for name in shared for key, title in parts.find(parts.METRICS, name).headline.items()}
    return {key: title for key, title in titles.items() if all(run.summary.get(key) is not None for run in runs)}


def _refuse_what_differs(runs: list[FinishedRun]) -> None:
    """ValueError that names two runs and what differs between them, where their numbers cannot stand in one table."""
    one = runs[0]
    for other in runs[1:]:
        for what, ours, theirs in (
            ("data set", one.recipe.data.dataset, other.recipe.data.dataset),
            ("split to train on", one.recipe.data.train_split, other.recipe.data.train_split),
            ("split", one.recipe.data.val_split, other.recipe.data.val_split),
            ("data.tuning_part", one.recipe.data.tuning_part, other.recipe.data.tuning_part),
            ("protocol", one.protocol, other.protocol),
            ("number of images", len(one.names), len(other.names)),
            *(("images", a, b) for a, b in zip(one.names, other.names)),
            ("classes", one.class_names, other.class_names),
            *(
                (f"label pixels of {name}", a.tolist(), b.tolist())
                for name, a, b in zip(one.names, one.counts[..., 1], other.counts[..., 1])
            ),
        ):
            if ours != theirs:
                raise ValueError(
                    f"{one.folder} and {other.folder} cannot be compared, they differ in {what}: {ours} and {theirs}"
                )


def _experiment(run: FinishedRun) -> str:
    """A key that is equal for runs that differ in nothing but their seed and what no result depends on."""
    recipe = run.recipe
    values = learnt_with(recipe)
    if recipe.schedule.budget is not None:  # each run has measured its own number
        del values["schedule"]["iterations"]
    return json.dumps([recipe.method_name, *_course(run), values], sort_keys=True)


def _course(run: FinishedRun) -> tuple:
    """How often it was scored, which decides which checkpoint is its best, and whether it came to its end."""
    return run.recipe.evaluate.every, run.recipe.evaluate.patience, run.unfinished is not None


def learnt_with(recipe: Recipe) -> dict:
    """What results depend on, as `model_dump` gives it; recipes that weights come from by their names alone."""
    values = without(recipe.model_dump(mode="json", by_alias=True), IRRELEVANT_TO_RESULTS)
    for network in values["networks"].values():
        if isinstance(network["weights"], dict):  # the way there depends on where the run lies
            network["weights"]["recipe"] = Path(network["weights"]["recipe"]).name
    return values


def _row(runs: list[FinishedRun]) -> Row:
    runs = sorted(runs, key=lambda run: run.recipe.seed)
    for one, other in zip(runs, runs[1:]):
        if one.recipe.seed == other.recipe.seed:
            raise ValueError(
                f"{one.folder} and {other.folder} are the same experiment with the same seed, {one.recipe.seed}; "
                f"leave one out"
            )
    recipe, counts = runs[0].recipe, np.stack([run.counts.sum(0) for run in runs])  # (S, K, 3)
    teachers = [network.title + _scored(name, runs) for name, network in recipe.networks.items() if name != "student"]
    program = f", {runs[0].program}" if runs[0].program else ""
    return Row(
        recipe.method_name,
        recipe.networks["student"].title + program,
        " + ".join(teachers) or "-",
        runs,
        mean_iou(counts, runs[0].absent),
        iou(counts).mean(0),
    )


def _scored(name: str, runs: list[FinishedRun]) -> str:
    """` (65.15)`, the mIoU of a frozen network; of one that was trained anew between runs, from the lowest on."""
    told = [percent(miou) for miou in sorted(run.teachers[name] for run in runs if name in run.teachers)]
    return f" ({' to '.join(dict.fromkeys([told[0], told[-1]]))})" if told else ""


def _distinguish(rows: list[Row]) -> list[Row]:
    """The rows, with the runs' name behind the method where another row would read the same, or their first folder."""
    for told in (lambda run: re.sub(r"-s[0-9]+$", "", run.recipe.name), lambda run: run.folder):
        words = [(row.method, row.student, row.teacher, row.recipe.data.labelled) for row in rows]
        rows = [
            replace(row, method=f"{row.recipe.method_name} ({told(row.runs[0])})") if words.count(one) > 1 else row
            for row, one in zip(rows, words)
        ]
    return rows


def _label(rows: list[Row]) -> list[Row]:
    """The rows with their labels: behind the method stands as little as tells a row from others of the same method."""
    words = [
        (row.program, row.recipe.networks["student"].title, row.teacher, row.recipe.data.labelled or "all labels")
        for row in rows
    ]
    choices = list(chain.from_iterable(combinations(range(4), count) for count in range(5)))
    labels = []
    for row, own in zip(rows, words):
        others = [theirs for one, theirs in zip(rows, words) if one.method == row.method and one is not row]
        told = next(
            places for places in choices if all(any(own[at] != theirs[at] for at in places) for theirs in others)
        )
        more = ", ".join(own[at] for at in told if own[at])
        labels.append(f"{row.method} ({more})" if more else row.method)
    return [replace(row, label=label) for row, label in zip(rows, labels)]


def _baselines(rows: list[Row], asked: str | None) -> list[Row]:
    """The rows others may be compared with."""
    if asked is None:
        return [row for row in rows if row.learns_alone and not row.program]
    trained = [row for row in rows if not row.program]
    found = [
        row
        for row in rows
        if any(Path(asked).resolve() == run.folder.resolve() for run in row.runs)
        or row in trained
        and (asked in (row.method, row.recipe.method_name) or any(asked == run.recipe.name for run in row.runs))
    ]
    if not found:
        methods = list(dict.fromkeys(row.method for row in trained))
        known = f"the methods are: {', '.join(methods)}" if methods else "these are exported files; add their runs"
        raise ValueError(
            f"--baseline {asked}: no run and no method of that name is compared{did_you_mean(asked, methods)}; {known}"
        )
    return found


def trained_as(row: Row, rows: list[Row]) -> Row | None:
    """The row of the runs that a row of exported files comes from, if it is compared, too."""
    return next((one for one in rows if not one.program and _experiment(one.runs[0]) == _experiment(row.runs[0])), None)


def _baseline_of(row: Row, baselines: list[Row], *, only: bool) -> Row | None:
    """The baseline a row is compared with, None where none has its student; `only`: if there is one, it is for all."""
    if only and len(baselines) == 1:
        return baselines[0]
    alike = most_alike(row, baselines)
    if len(alike) > 1:
        which = " or ".join(str(base.runs[0].folder) for base in alike)
        raise ValueError(f"{row.runs[0].folder} could be compared with {which}; say which with --baseline")
    return alike[0] if alike else None


def most_alike(row: Row, baselines: list[Row]) -> list[Row]:
    """The baselines of the row's student whose settings differ least from its own, and of these whose losses do.

    Of several, those that were scored as often and came as far are meant, and of these the one with the most runs.
    """

    def settings(one: Row) -> dict:
        return one.recipe.model_dump(mode="json", include={"data", "optimizer", "schedule", "loop"})

    def unlike(base: Row) -> tuple[int, int, int, int]:
        others = sum(term not in row.recipe.losses for term in base.recipe.losses)
        course = sum(ours != theirs for ours, theirs in zip(_course(row.runs[0]), _course(base.runs[0])))
        return len(changes(settings(base), settings(row))), others, course, -len(base.runs)

    found = {base: unlike(base) for base in baselines if base.learner == row.learner}
    return [base for base, count in found.items() if count == min(found.values())]


def _at(row: Row, seeds: list[int]) -> Row:
    """The row's runs of these seeds alone: a file that was exported from one run owes nothing to the others."""
    return _row([run for run in row.runs if run.recipe.seed in seeds] or row.runs)


def _gain(row: Row, base: Row, beside: Row) -> Gain:
    """What a row has over its baseline; `beside` has those of the baseline's runs that it is set beside."""
    paired = row.seeds == beside.seeds
    low, high = _interval(row, beside, paired)
    tested = row.tested - beside.tested if paired else np.array([row.tested.mean() - beside.tested.mean()])
    mean = float(row.miou.mean() - beside.miou.mean())
    return Gain(base, paired, mean, low, high, row.per_class - beside.per_class, tested)


def _interval(row: Row, base: Row, paired: bool) -> tuple[float, float]:
    """95 % of the resampled gains that are known lie in it; NaN where one of the two has a single run."""
    if min(len(row.runs), len(base.runs)) < 2:
        return np.nan, np.nan
    ours, theirs = (np.stack([run.counts for run in one.runs]) for one in (row, base))  # (S, N, K, 3)
    seeds = resamples(len(ours), seed=1), resamples(len(theirs), seed=1 if paired else 2)
    gains = resampled_gains(ours, theirs, row.runs[0].absent, resamples(ours.shape[1], seed=0), seeds)
    gains = gains[~np.isnan(gains)]  # nothing is scored in a draw of images without a labelled pixel
    low, high = np.quantile(gains, [0.025, 0.975]) if len(gains) else (np.nan, np.nan)
    return float(low), float(high)
