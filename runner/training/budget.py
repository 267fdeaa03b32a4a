"""How many iterations fit into the time that a training is given: measured once, on the training itself, before it."""

import math
from collections.abc import Callable
from itertools import pairwise

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.utils.data import Dataset

from segkd.runner.console import clock, say
from segkd.runner.loading.batch import Batch
from segkd.runner.loading.data_sets import build_training_batches
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.opening import as_measured
from segkd.runner.training.estimate import now, telling_of_memory
from segkd.runner.training.training import Training

WARM = 3  # first steps, which find algorithms and fill caches, are not counted
LEAST, MOST = 3, 200  # steps that are timed
SHARE = 0.03  # of the time that is given, for as long as the timed steps take


def fix_iterations(
    recipe: Recipe,
    sets: dict[str, Dataset | None],
    views: tuple[dict, dict],
    accelerator: Accelerator,
    take_step: Callable[[Training, list[Batch], Accelerator], None],
    *,
    anew: bool,
) -> Recipe:
    """The recipe with the iterations that its run has measured or, at its start, with as many as fit into its time.

    They are measured on a training of their own, which is thrown away: steps of the whole loop, with loading, as the
    clock of the main process has them. Gates of terms change what a step costs, so the steps behind each are timed. The
    run is then the same, bit for bit, as one that is given this number. What is not foreseen: a teacher's cache that
    is still to be filled, and other work on the machine.

    Args:
        take_step: one step of a training on a batch, in parts. anew: an earlier run in the folder tells nothing.
    """
    found = [None if anew else as_measured(recipe).schedule]
    schedule = broadcast_object_list(found)[0]  # what one process sees in the folder is true for all
    if schedule is not None and not schedule.is_open:
        return recipe.with_iterations(schedule.iterations)
    scaler = accelerator.scaler and accelerator.scaler.state_dict()
    seconds = _measure(recipe, sets, views, accelerator, take_step)
    accelerator.free_memory()
    if scaler:
        accelerator.scaler.load_state_dict(scaler)
    budget = recipe.schedule.budget
    iterations = fitting(budget, seconds)
    if accelerator.is_main_process:
        steps = ", then ".join(f"{took:.3g} s" for took in seconds.values())
        words = f"{iterations} iterations fit into {clock(budget)}"
        say(f"{recipe.name}: a step was measured to take {steps}: {words}")
    return recipe.with_iterations(iterations)


def _measure(
    recipe: Recipe,
    sets: dict[str, Dataset | None],
    views: tuple[dict, dict],
    accelerator: Accelerator,
    take_step: Callable[[Training, list[Batch], Accelerator], None],
) -> dict[int, float]:
    """Iteration from which on other terms are at work -> seconds of a step, as far as the time reaches."""
    training = Training.build(recipe, sets, accelerator, beside=[])
    training.tracking = _NoRecord()
    training.wrapped.train()
    batches = build_training_batches(recipe, *sets.values(), views, accelerator, start=0)

    def step() -> float:
        since = now(accelerator)
        parts = [next(batches).to(accelerator.device) for _ in range(recipe.loop.accumulate)]
        with telling_of_memory(recipe, training.graph, accelerator):
            take_step(training, parts, accelerator)
        return now(accelerator) - since

    budget, phases = recipe.schedule.budget, phases_of(recipe)
    seconds: dict[int, float] = {}
    for phase in phases:
        if seconds and fitting(budget, seconds) <= phase:
            break
        training.state.iteration = phase
        warm = [step() for _ in range(WARM)]
        count = min(max(LEAST, math.ceil(SHARE * budget / len(phases) / warm[-1])), MOST)
        count = broadcast_object_list([count])[0]
        seconds[phase] = broadcast_object_list([sum(step() for _ in range(count)) / count])[0]
    return seconds


def phases_of(recipe: Recipe) -> list[int]:
    """The iterations from which on other terms may be at work than before, the first one among them."""
    gates = {term.after + 1 for term in recipe.losses if term.after is not None}
    return sorted({0}.union(gates, *(term.may_fall_silent_at() for term in recipe.losses)))


def fitting(budget: float, seconds: dict[int, float]) -> int:
    """How many iterations fit into a time, one at least.

    Args:
        budget: in seconds. seconds: iteration -> what a step takes from there on; the first is 0.
    """
    left, spans = budget, [*pairwise(seconds), (max(seconds), math.inf)]
    for start, end in spans:
        count = left / seconds[start]
        if count < end - start:
            return max(1, start + int(count))
        left -= (end - start) * seconds[start]
    raise AssertionError("the last span has no end")


class _NoRecord:
    """In the place of Tracking: nothing of what is only measured is kept."""

    def note(self, values: dict[str, float]) -> None:
        """Forgets them."""

    def add(self, losses: dict[str, Tensor]) -> None:
        """Forgets them."""

    def end_step(self, iteration: int, lr: float, weights: dict[str, float]) -> None:
        """Forgets it."""
