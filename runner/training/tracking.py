"""The run's record: metrics.jsonl (always, one line an iteration), the console, and wandb where it is wanted."""

import json
import math
import time

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset

from segkd.runner.building.device import peak_memory
from segkd.runner.building.stopwatch import Stopwatch
from segkd.runner.console import clock, one_line, progress_bar, say
from segkd.runner.loading.data_sets import samples_seen
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import append_rows, complete_last_row, keep_rows
from segkd.runner.training.wandb_run import Dashboard


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
        self.bar = progress_bar(
            total=recipe.schedule.iterations,
            title=recipe.name,
            unit="step",
            begins_at=start,
            stays=True,
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
        """The last row, its losses averaged over the rows that have them."""
        last, end = rows[-1], self.recipe.schedule.iterations
        for key in [key for key in last if key == "total" or key.startswith(("loss/", "weighted/"))]:
            values = [row[key] for row in rows if key in row]
            last = last | {key: sum(values) / len(values)}
        terms = " ".join(f"{label} {value:.3f}" for label, value in losses_in(last).items())
        speed = f"{last['images_per_second']:.1f} img/s"
        if not self.bar.disable:
            self.bar.set_postfix_str(f"{one_line(terms)} | {speed}")
        else:
            left = clock((end - last["iteration"]) * self.recipe.data.batch_size / last["images_per_second"])
            name = f"{self.recipe.name} {last['iteration']}/{end}"
            say(f"{name} | {terms} | lr {last['lr']:.2g} | {speed} | {left} left")
        self.dashboard.log({key: value for key, value in last.items() if not isinstance(value, list)})


def losses_in(row: dict) -> dict[str, float]:
    """The unweighted losses of a row by their labels."""
    return {key.removeprefix("loss/"): value for key, value in row.items() if key.startswith("loss/")}
