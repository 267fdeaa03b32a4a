"""The run's record: metrics.jsonl (always, one line an iteration), the console, and wandb where it is wanted."""

import json
import math
import time

import torch
from accelerate import Accelerator
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.utils.data import Dataset

from segkd.runner.building.device import peak_memory
from segkd.runner.building.stopwatch import Stopwatch
from segkd.runner.console import clock, number, one_line, percent, progress_bar, say
from segkd.runner.display import Bar
from segkd.runner.loading.data_sets import samples_seen
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import append_rows, complete_last_row, keep_rows
from segkd.runner.scoring.cost import wait_for_gpu
from segkd.runner.training.estimate import Cost
from segkd.runner.training.wandb_run import Dashboard

QUIET = 60.0  # seconds between two lines of a log
FIRST = 3  # steps after which a run says how long it will take
SETTLED = 50  # and those after which it says so again
BRIEF = 120.0  # seconds of a rest that nobody needs to hear of twice


class Tracking:
    """Collects every iteration's losses on the device and writes them out every `tracking.every` iterations.

    Reading a value from a GPU waits for it, so values stay there until a write. The last row of a write also carries
    the gradient norm, images per second, the seconds of an iteration by what they went into, and memory.

    Attributes:
        alone: whether nothing else is trained beside it, so that its speed is that of the clock.
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        sets: dict[str, Dataset | None],
        stopwatch: Stopwatch,
        start: int,
        dashboard: Dashboard,
        place: str = "",
    ):
        self.recipe, self.accelerator, self.sets, self.dashboard = recipe, accelerator, sets, dashboard
        self.stopwatch, self.alone = stopwatch, True
        self.run = RunFolder(recipe.folder)
        self.rows: list[dict] = []
        self.values: list[Tensor] = []
        self.parts: Tensor | None = None
        self.names: list[str] = []
        self.notes: dict[str, float] = {}
        self.interval = [start, time.perf_counter()]
        if accelerator.is_main_process:
            keep_rows(self.run.metrics_file, start)
        self.unsaid: list[dict] = []  # rows since the last line of a log
        self.said, self.next_line = False, time.monotonic() + QUIET
        self.start, self.place, self.began = start, place, 0.0
        self.scored = ""  # the last scores, as a terminal shows them
        self.bar = progress_bar(
            total=recipe.schedule.iterations,
            title=f"{place}{recipe.name}",
            unit="steps",
            begins_at=start,
            shown=accelerator.is_main_process,
        )

    def add(self, losses: dict[str, Tensor]) -> None:
        """Notes the unweighted losses of one accumulated part of a step. Nothing is read from the device yet."""
        self.names = list(losses)
        values = torch.stack([value.detach().float() for value in losses.values()])
        self.parts = values if self.parts is None else self.parts + values

    def end_step(self, iteration: int, lr: float, weights: dict[str, float]) -> None:
        """Notes one finished iteration (1-based) of the parts added since the last."""
        weights = {name: weights[name.partition("/")[0]] for name in self.names}
        self.rows.append({"iteration": iteration, "lr": lr, "weights": weights, **self.notes})
        self.notes = {}
        self.values.append(self.parts / self.recipe.loop.accumulate)
        self.parts = None
        self.bar.update()
        self._estimate(iteration)

    def note(self, values: dict[str, float]) -> None:
        """Adds values to the row of the step under way."""
        self.notes.update(values)

    def flush(self, gradient_norm: Tensor | None = None, scores: dict | None = None) -> None:
        """Writes the iterations noted since the last flush, averaged over the processes.

        Args:
            scores: of the last iteration, where it was evaluated (scoring/evaluation.py:scores_of).

        Raises:
            FloatingPointError: a loss was not finite; names the first iteration and the terms.
        """
        if not self.rows:
            return
        values = iter(self.accelerator.reduce(torch.cat(self.values), reduction="mean").tolist())
        rows, self.rows, self.values = self.rows, [], []
        for row in rows:
            weights = row.pop("weights")
            row["total"] = 0.0
            for label, weight in weights.items():
                value = next(values)
                row[f"loss/{label}"], row[f"weighted/{label}"] = value, weight * value
                row["total"] += weight * value
        last = rows[-1]
        last.update(self._speed(last["iteration"]), **(scores or {}))
        if gradient_norm is not None:
            last["gradient_norm"] = float(gradient_norm)
        if self.accelerator.is_main_process:
            append_rows(self.run.metrics_file, rows)
            if scores and "miou" in scores:
                self.scored = f"mIoU {percent(scores['miou'])} % at {last['iteration']}"
            self._show(rows)
        self._stop_on_nan(rows)

    def add_scores(self, scores: dict) -> None:
        """Puts the scores of the last iteration into the row that was written without them."""
        if self.accelerator.is_main_process:
            complete_last_row(self.run.metrics_file, scores)
            self.dashboard.log({key: value for key, value in scores.items() if not isinstance(value, list)})

    def restart_clock(self) -> None:
        """Leaves the time since the last flush (an evaluation, a save) out of the speed."""
        self.interval[1] = time.perf_counter()

    def close(self) -> None:
        """Ends the progress bar."""
        self.bar.close()

    def _speed(self, iteration: int) -> dict:
        first, since = self.interval
        now = time.perf_counter()
        steps, seconds = iteration - first, self.stopwatch.read()
        self.interval = [iteration, now]
        scoring = seconds.pop("scoring", None)
        elapsed = now - since - (scoring or 0.0) if self.alone else sum(seconds.values())
        return {
            "images_per_second": steps * self.recipe.data.batch_size / elapsed,
            **{f"seconds/{phase}": value / steps for phase, value in seconds.items()},
            **({} if scoring is None else {"seconds/scoring": scoring}),
            "memory_gib": peak_memory(self.accelerator.device) / 2**30,
        }

    def _stop_on_nan(self, rows: list[dict]) -> None:
        row = next((row for row in rows if not math.isfinite(row["total"])), None)
        if row is None:
            return
        samples = samples_seen(self.recipe, self.sets, row["iteration"] - 1)
        if self.accelerator.is_main_process:
            values = {**row, "samples": [index for _, index in samples]}
            self.run.nan_file.write_text(json.dumps(values, indent=2) + "\n")
        terms = ", ".join(f"{label} = {value}" for label, value in losses_in(row).items())
        raise FloatingPointError(
            f"the loss of iteration {row['iteration']} is {row['total']} ({terms}); lower optimizer.lr or the "
            f"term's weight, or set loop.clip_norm. Its samples stand in {self.run.nan_file}; "
            f"the checkpoints before it are untouched"
        )

    def _show(self, rows: list[dict]) -> None:
        """The last row, its losses averaged over the rows that have them; a log has a line a minute at most."""
        self.dashboard.log({key: value for key, value in averaged(rows).items() if not isinstance(value, list)})
        self.unsaid = [*self.unsaid, *rows] if self.bar.disable else rows
        last = averaged(self.unsaid)
        speed = f"lr {last['lr']:.2g} | {last['images_per_second']:.1f} img/s"
        terms = " ".join(f"{label} {value:.3f}" for label, value in losses_in(last).items())
        if isinstance(self.bar, Bar) and not self.bar.disable:
            self.bar.below = self._table(last, speed)
        elif not self.bar.disable:
            self.bar.set_postfix_str(f"{one_line(terms)} | {speed}")
        elif "miou" in last:  # its scores have a line of their own
            self.next_line = time.monotonic() + QUIET
        else:
            end, rate = self.recipe.schedule.iterations, last["images_per_second"] / self.recipe.data.batch_size
            left = (end - last["iteration"]) / rate
            if self._is_time(last["iteration"], left):
                say(f"{self.recipe.name} {last['iteration']}/{end} | {terms} | {speed} | {clock(left)} left")
                self.unsaid, self.said, self.next_line = [], True, time.monotonic() + QUIET

    def _is_time(self, iteration: int, left: float) -> bool:
        """Whether a log has a line now: when the speed has settled, then once a minute.

        Args:
            left: seconds to the end.
        """
        has_settled = iteration >= self.start + SETTLED
        return (has_settled and not self.said and left >= BRIEF) or time.monotonic() >= self.next_line

    def _estimate(self, iteration: int) -> None:
        """Says after the first steps how long the rest will take, where nothing else has said so."""
        left, done = self.recipe.schedule.iterations - iteration, iteration - self.start
        if done not in (1, FIRST) or left < SETTLED or self.place or not self.alone:
            return
        wait_for_gpu(self.accelerator.device)
        if done == 1:  # in which libraries are set up
            self.began = time.perf_counter()
            return
        step = (time.perf_counter() - self.began) / (FIRST - 1)
        cost = Cost(step * left, peak_memory(self.accelerator.device))
        if self.accelerator.is_main_process:
            say(f"{self.recipe.name}: {cost}, by its first steps and without its evaluations")

    def _table(self, last: dict, speed: str) -> Group:
        """What a terminal shows below the bar: each term's loss, weight and share of the whole, and the last scores."""
        table = Table(box=None, padding=(0, 2), header_style="dim")
        table.add_column("loss")
        for title in ("value", "weight", "of the whole"):
            table.add_column(title, justify="right")
        for label, value in losses_in(last).items():
            weighted = last[f"weighted/{label}"]
            share = weighted / last["total"] if last["total"] else float("nan")
            weight = number(weighted / value if value else None, "{:.3g}")
            table.add_row(Text(one_line(label)), f"{value:.4g}", weight, f"{percent(share, '{:.0f}')} %")
        words = [speed, f"{last['memory_gib']:.1f} GiB", *([self.scored] if self.scored else [])]
        return Group(table, Text(f"  {' | '.join(words)}", style="dim"))


def averaged(rows: list[dict]) -> dict:
    """The last row, its losses averaged over the rows that have them."""
    last = rows[-1]
    for key in [key for key in last if key == "total" or key.startswith(("loss/", "weighted/"))]:
        values = [row[key] for row in rows if key in row]
        last = last | {key: sum(values) / len(values)}
    return last


def losses_in(row: dict) -> dict[str, float]:
    """The unweighted losses of a row by their labels."""
    return {key.removeprefix("loss/"): value for key, value in row.items() if key.startswith("loss/")}
