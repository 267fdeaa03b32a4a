"""How long a recipe will take and how much memory, measured on one batch before anything is trained."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset, Subset

from segkd.runner.building.device import peak_memory, prepare_for_device
from segkd.runner.building.graph import Graph, weighted
from segkd.runner.console import clock
from segkd.runner.loading.batch import Batch
from segkd.runner.loading.data_sets import build_training_batches, build_views, fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.recipe.memory import is_of_memory, without_room
from segkd.runner.recipe.schema import Recipe
from segkd.runner.scoring.cost import wait_for_gpu
from segkd.runner.scoring.evaluation import build_metrics, label_map

SLOW = 5.0  # seconds of a first step, which sets libraries up; a longer one is not made again to be measured
MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1}  # numbers that optimizers keep for each weight


@dataclass(frozen=True)
class Cost:
    """What a training takes: seconds with its evaluations, and bytes of one process or GPU at most."""

    seconds: float
    memory: float

    def __str__(self) -> str:
        return f"about {clock(self.seconds)} and {self.memory / 2**30:.1f} GiB of memory"

    def __add__(self, other: "Cost") -> "Cost":
        """Of one after the other."""
        return Cost(self.seconds + other.seconds, max(self.memory, other.memory))


@torch.compiler.set_stance("force_eager")  # compiling takes longer than it would tell
def measured(
    recipe: Recipe, graph: Graph, sets: tuple[Dataset, Dataset | None, Dataset], accelerator: Accelerator
) -> Cost:
    """The cost of a recipe by a step of `graph` and a batch of its scoring; the graph is of no use afterwards.

    Loading is not in it, nor what caches and compiled networks will save.

    Args:
        sets: to train on with labels and without, and to score.
    """
    train_set, unlabelled_set, val_set = sets
    prepare_for_device(graph, recipe, accelerator)
    here = recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": 0})})
    batches = build_training_batches(here, train_set, unlabelled_set, build_views(here), accelerator, start=0)
    batch = next(batches).to(accelerator.device)
    with telling_of_memory(recipe, graph, accelerator):
        step = step_seconds(graph, batch, recipe, accelerator)
    parameters = sum(one.numel() * one.element_size() for one in graph.parameters() if one.requires_grad)
    memory = peak_memory(accelerator.device) + MOMENTS[recipe.optimizer.name] * parameters
    scoring = 0.0 if recipe.judged_by_loss else scoring_seconds(graph, val_set, recipe, accelerator)
    iterations = recipe.schedule.iterations_at(step)
    evaluations = math.ceil(iterations / recipe.evaluate.every) * (1 + len(recipe.evaluate.also))
    return Cost(step * iterations + scoring * evaluations, memory)


def step_seconds(graph: Graph, batch: Batch, recipe: Recipe, accelerator: Accelerator) -> float:
    """Seconds of the forward and backward passes of one step, at the iteration with the most terms."""
    iteration, took = busiest_iteration(graph, recipe), []
    weights = graph.weights_at(iteration)
    # several processes, which may wait for each other inside of a step, all make the same number
    while len(took) < 2 and (sum(took) < SLOW or accelerator.num_processes > 1):
        since = now(accelerator)
        with accelerator.autocast():
            losses = graph.train()(batch.images, batch.target, iteration, batch.unlabelled, batch.places, batch.extra)
        total: Tensor = sum(weighted(losses, weights).values())
        total.backward()
        took.append(now(accelerator) - since)
        graph.zero_grad()
    return took[-1] * recipe.loop.accumulate


def scoring_seconds(graph: Graph, val_set: Dataset, recipe: Recipe, accelerator: Accelerator) -> float:
    """Seconds of one evaluation of the student. ValueError: a metric's arguments do not fit the classes."""
    build_metrics(recipe, val_set)
    size = min(recipe.evaluate.batch_size, len(val_set))
    resize = fixed_resize(recipe, scoring=True)
    batch = next(evaluation_batches(Subset(val_set, range(size)), batch_size=size, resize=resize))
    since = now(accelerator)
    label_map(graph.network("student").eval(), batch.to(accelerator.device), recipe)
    return (now(accelerator) - since) * math.ceil(len(val_set) / len(batch.target) / accelerator.num_processes)


def busiest_iteration(graph: Graph, recipe: Recipe) -> int:
    """The first iteration at which the most terms are active: gates and ramps may keep some away at the start."""
    last = recipe.schedule.iterations - 1
    behind_gates = (min(term.after + 1, last) for term in graph.terms if term.after is not None)
    return max(sorted({0, last // 2, last, *behind_gates}), key=lambda at: len(graph.active_terms(at)))


@contextmanager
def telling_of_memory(
    recipe: Recipe, graph: Graph, accelerator: Accelerator, *, scoring: bool = False
) -> Iterator[None]:
    """Where memory runs out inside, a ValueError that says what to change in the recipe."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        used = peak_memory(accelerator.device)
        text = without_room(recipe, error, used, bytes_kept(graph, recipe), accelerator.num_processes, scoring=scoring)
        raise ValueError(text) from error


def bytes_kept(graph: Graph, recipe: Recipe) -> int:
    """Bytes of weights and, of those that are trained, gradients and what the optimizer keeps."""
    sizes = [(one.numel() * one.element_size(), one.requires_grad) for one in graph.parameters()]
    frozen = [graph.network(name) for name in recipe.networks if name not in graph.networks]
    weights = sum(size for size, _ in sizes) + sum(
        one.numel() * one.element_size() for network in frozen for one in network.parameters()
    )
    return weights + sum(size for size, learns in sizes if learns) * (1 + MOMENTS[recipe.optimizer.name])


def now(accelerator: Accelerator) -> float:
    """The clock's seconds, when a GPU has done what it was asked for."""
    wait_for_gpu(accelerator.device)
    return time.perf_counter()
