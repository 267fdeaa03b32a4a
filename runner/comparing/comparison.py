"""Runs side by side: which of them are one experiment, and what each gained over its baseline."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segkd.runner.comparing.bootstrap import image_draws, iou, mean_iou, resampled_gains
from segkd.runner.comparing.finished_runs import FinishedRun
from segkd.runner.recipe.differences import MAY_CHANGE_ON_RESUME as FREE
from segkd.runner.recipe.differences import changes
from segkd.runner.recipe.mistakes import did_you_mean
from segkd.runner.recipe.network import Network
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.schema import Recipe

# what may differ between runs of one experiment: nothing here changes what is learnt or how it is scored
_UNSAID = (FREE - {"evaluate"}) | {"name", "seed", "method", "evaluate.batch_size", "evaluate.also"}
# arguments of a network that some losses need and that leave what is delivered as it is
_LEARNING_ONLY = {"distill_heads", "projection_dropout"}


@dataclass(frozen=True)
class Gain:
    """What a row has over its baseline: in mIoU with its 95 % interval, and in the IoU of each class (NaN: absent).

    Both are taken at the seeds they share; where they share none, at all.
    """

    over: int
    mean: float
    low: float
    high: float
    per_class: np.ndarray


@dataclass(frozen=True)
class Row:
    """One experiment: the runs that differ in their seed only. Scores are shares, one for each run, in `miou`."""

    method: str
    student: str
    teacher: str
    runs: list[FinishedRun]
    miou: np.ndarray
    per_class: np.ndarray
    gain: Gain | None = None

    @property
    def std(self) -> float:
        """Standard deviation over the seeds (n - 1 in the denominator); NaN for one seed."""
        return float(self.miou.std(ddof=1)) if len(self.miou) > 1 else float("nan")

    @property
    def recipe(self) -> Recipe:
        """The recipe of the first run."""
        return self.runs[0].recipe

    def measured(self, key: str) -> float:
        """Mean over the runs of a number in their summaries."""
        return float(np.mean([run.summary.get(key) or np.nan for run in self.runs]))


@dataclass(frozen=True)
class Comparison:
    """Rows that may be compared: one data set, split and protocol, the same images and labels."""

    rows: list[Row]
    protocol: str
    class_names: list[str]
    images: int


def compare(runs: list[FinishedRun], *, baseline: str | None = None, sort: bool = False) -> Comparison:
    """Groups runs by experiment and sets each beside its baseline.

    Args:
        baseline: a method or a run; default: the experiments that learn from no other network, each for those with
            the same student and, of several, the one whose settings differ least.
        sort: by mIoU, the best first; default: those that learn from no other network first, then as given.

    Raises:
        ValueError: two runs cannot be compared, or it is not clear what to compare with.
    """
    _refuse_what_differs(runs)
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(_experiment(run.recipe), []).append(run)
    rows = sorted(_told_apart([_row(group) for group in groups.values()]), key=lambda row: not _learns_alone(row))
    if sort:
        rows.sort(key=lambda row: -row.miou.mean())
    base = _baselines(rows, baseline)
    draws = image_draws(len(runs[0].names))
    gains = [_gain(rows, index, _baseline_of(row, rows, base, baseline), draws) for index, row in enumerate(rows)]
    rows = [replace(row, gain=gain) for row, gain in zip(rows, gains)]
    return Comparison(rows, protocol_words(runs[0].recipe), runs[0].class_names, len(runs[0].names))


def _refuse_what_differs(runs: list[FinishedRun]) -> None:
    """ValueError that names two runs and what differs between them, where their numbers cannot stand in one table."""
    one = runs[0]
    for other in runs[1:]:
        for what, ours, theirs in (
            ("data set", one.recipe.data.dataset, other.recipe.data.dataset),
            ("split", one.recipe.data.val_split, other.recipe.data.val_split),
            ("protocol", protocol_words(one.recipe), protocol_words(other.recipe)),
            ("number of images", len(one.names), len(other.names)),
            *(("images", a, b) for a, b in zip(one.names, other.names) if a != b),
            ("classes", one.class_names, other.class_names),
            *(
                (f"label pixels of {name}", a.tolist(), b.tolist())
                for name, a, b in zip(one.names, one.counts[..., 1], other.counts[..., 1])
                if not np.array_equal(a, b)
            ),
        ):
            if ours != theirs:
                raise ValueError(
                    f"{one.folder} and {other.folder} cannot be compared, they differ in {what}: {ours} and {theirs}"
                )


def _experiment(recipe: Recipe) -> str:
    """Equal for runs that differ in nothing but their seed and what no result depends on."""
    values = recipe.model_dump(mode="json", by_alias=True)
    for path in _UNSAID:
        section, _, key = path.rpartition(".")
        (values[section] if section else values).pop(key, None)
    return json.dumps([recipe.method_name, values], sort_keys=True)


def _row(runs: list[FinishedRun]) -> Row:
    runs = sorted(runs, key=lambda run: run.recipe.seed)
    for one, other in zip(runs, runs[1:]):
        if one.recipe.seed == other.recipe.seed:
            raise ValueError(
                f"{one.folder} and {other.folder} are the same experiment with the same seed, {one.recipe.seed}; "
                f"leave one out"
            )
    recipe, absent = runs[0].recipe, runs[0].recipe.evaluate.absent
    counts = np.stack([run.counts.sum(0) for run in runs])  # (S, K, 3)
    teachers = [
        _words(network) + (f" ({100 * runs[0].teachers[name]:.2f})" if name in runs[0].teachers else "")
        for name, network in recipe.networks.items()
        if name != "student"
    ]
    return Row(
        recipe.method_name,
        _words(recipe.networks["student"]),
        " + ".join(teachers) or "-",
        runs,
        mean_iou(counts, absent),
        iou(counts).mean(0),
    )


def _words(network: Network) -> str:
    """`deeplabv3 resnet18`."""
    head = network.args.get("head") if network.source == "timm" else network.args.get("backbone")
    return " ".join(str(word) for word in (network.model or f"average of {network.ema_of}", head) if word)


def _told_apart(rows: list[Row]) -> list[Row]:
    """The rows, with the runs' name behind the method where another row would read the same."""
    told = [(row.method, row.student, row.teacher, row.recipe.data.labelled) for row in rows]
    return [
        replace(row, method=f"{row.method} ({re.sub(r'-s[0-9]+$', '', row.recipe.name)})")
        if told.count(one) > 1
        else row
        for row, one in zip(rows, told)
    ]


def _learns_alone(row: Row) -> bool:
    return all(term.source is None for term in row.recipe.losses)


def _baselines(rows: list[Row], asked: str | None) -> list[int]:
    """The rows others may be compared with."""
    if asked is None:
        return [index for index, row in enumerate(rows) if _learns_alone(row)]
    found = [
        index
        for index, row in enumerate(rows)
        if asked in (row.method, row.recipe.method_name)
        or any(asked == run.recipe.name or Path(asked).resolve() == run.folder.resolve() for run in row.runs)
    ]
    if not found:
        methods = list(dict.fromkeys(row.method for row in rows))
        raise ValueError(
            f"--baseline {asked}: no run and no method of that name is compared{did_you_mean(asked, methods)}; the "
            f"methods are: {', '.join(methods)}"
        )
    return found


def _baseline_of(row: Row, rows: list[Row], base: list[int], asked: str | None) -> int | None:
    """The one of the baselines a row is compared with; None for a baseline itself and where none has its student."""
    if any(rows[index] is row for index in base):
        return None
    if asked is not None and len(base) == 1:
        return base[0]

    def student(one: Row) -> tuple:
        network = one.recipe.networks["student"]
        kept = {name: value for name, value in network.args.items() if name not in _LEARNING_ONLY}
        return network.source, network.model, kept

    def settings(one: Row) -> dict:
        return one.recipe.model_dump(mode="json", include={"data", "optimizer", "schedule", "loop"})

    unlike = {
        index: len(changes(settings(rows[index]), settings(row)))
        for index in base
        if student(rows[index]) == student(row)
    }
    least = [index for index, count in unlike.items() if count == min(unlike.values())]
    if len(least) > 1:
        which = " or ".join(str(rows[index].runs[0].folder) for index in least)
        raise ValueError(f"{row.runs[0].folder} could be compared with {which}; say which with --baseline")
    return least[0] if least else None


def _gain(rows: list[Row], index: int, over: int | None, draws: np.ndarray) -> Gain | None:
    if over is None:
        return None
    row, base = rows[index], rows[over]
    absent = row.recipe.evaluate.absent
    # an unlucky seed that one of the two alone has would be no gain of the other
    seeds = {run.recipe.seed for run in row.runs} & {run.recipe.seed for run in base.runs}
    ours, theirs = (
        np.stack([run.counts for run in one.runs if not seeds or run.recipe.seed in seeds]) for one in (row, base)
    )  # (S, N, K, 3)
    low, high = np.quantile(resampled_gains(ours, theirs, absent, draws), [0.025, 0.975])
    mean = mean_iou(ours.sum(1), absent).mean() - mean_iou(theirs.sum(1), absent).mean()
    return Gain(over, float(mean), low, high, iou(ours.sum(1)).mean(0) - iou(theirs.sum(1)).mean(0))
