"""The losses of a recipe on images that are held out: what judges a student where nothing can be scored."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Dataset

from segkd.datasets._parts_of_a_set import WithoutLabels
from segkd.runner.building.graph import Graph, weighted
from segkd.runner.building.stopwatch import Stopwatch
from segkd.runner.console import progress_bar
from segkd.runner.loading.batch import Batch, TrainingViews
from segkd.runner.loading.data_sets import build_views, fixed_resize
from segkd.runner.loading.sampler import batches_of
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.seeds import seed_for
from segkd.runner.scoring.evaluation import Stopped

TOTAL = "held_out_loss"  # what the log and the summary call the weighted sum; each term is held_out/<label>


@dataclass(frozen=True)
class HeldOut:
    """What judging gives: `held_out_loss`, the lower the better, and the unweighted loss of each term."""

    values: dict[str, float]

    def arrays(self) -> None:
        """Of single images nothing is counted."""


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # the last batch may be smaller
def judge(
    graph: Graph,
    student: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    accelerator: Accelerator,
    is_stopped: Callable[[], bool] = lambda: False,
) -> HeldOut:
    """The terms' losses on a data set's images; the same on all processes, however many they are.

        held_out_loss = 1 / N sum_b n_b sum_i w_i L_i(batch b)

    Batch b has n_b of the N images, in their order, as many as a step of training has, each in one random view that is
    drawn as those of training are and is the same at every evaluation. The weights w are those of the last iteration,
    so that evaluations compare. Networks and losses are in eval mode, in float32.

    Args:
        student: is judged in the place of the graph's, which may be what it is the average of.
        is_stopped: asked after each batch, whether to leave it at that.

    Raises:
        Stopped: on all processes, where one of them was stopped. FloatingPointError: the loss is not finite.
    """
    size = recipe.data.batch_size if recipe.sees_labelled else recipe.data.unlabelled.batch_size
    groups = [
        [(0, index) for index in range(len(dataset))[first : first + size]] for first in range(0, len(dataset), size)
    ]
    mine = range(accelerator.process_index, len(groups), accelerator.num_processes)
    last = recipe.schedule.iterations - 1
    graph_had = graph.shared, graph.stopwatch, graph.keep_predictions
    graph.shared, graph.stopwatch, graph.keep_predictions = None, Stopwatch(), False
    found = []
    try:
        with graph.with_student(student):
            graph.eval()
            for number, seen in zip(mine, _batches(dataset, recipe, [groups[number] for number in mine], accelerator)):
                torch.manual_seed(seed_for(recipe.seed, "held out", number))  # of losses that draw
                shown = seen.get("labelled", seen.get("unlabelled"))
                # Accelerate has put the recipe's precision around the graph's own forward
                losses = type(graph).forward(graph, shown.images, shown.target, last, seen.get("unlabelled"))
                found.append((number, len(shown.indices), {name: loss.item() for name, loss in losses.items()}))
                if is_stopped():
                    break
    finally:
        graph.shared, graph.stopwatch, graph.keep_predictions = graph_had
        graph.train()
    if accelerator.reduce(torch.tensor(float(is_stopped()), device=accelerator.device), reduction="sum") > 0:
        raise Stopped
    found = sorted(gather_object(found))  # in the order of the images: sums do not depend on who has which
    means = {name: sum(count * losses[name] for _, count, losses in found) / len(dataset) for name in found[0][2]}
    total = sum(weighted(means, graph.weights_at(last)).values())
    if not math.isfinite(total):
        raise FloatingPointError(
            f"the loss on the held-out images of {recipe.data.scored} is {total} ({means}); lower optimizer.lr, or set "
            f"loop.clip_norm, and go on from the last checkpoint with --resume"
        )
    return HeldOut({TOTAL: total} | {f"held_out/{name}": value for name, value in means.items()})


def _batches(
    dataset: Dataset, recipe: Recipe, samples: list[list[tuple[int, int]]], accelerator: Accelerator
) -> Iterator[dict[str, Batch]]:
    """The batches of given samples for each stream that a term sees, on the device."""
    labelled, unlabelled = build_views(recipe)
    made = {"labelled": (dataset, labelled)} if recipe.sees_labelled else {}
    made |= {"unlabelled": (WithoutLabels(dataset), unlabelled)} if unlabelled else {}
    views = [
        TrainingViews(images, seed=seed_for(recipe.seed, "held out"), resize=fixed_resize(recipe, scoring=False), **how)
        for images, how in made.values()
    ]
    loading = {"workers": recipe.data.workers, "timeout": recipe.loop.timeout}
    both = zip(*(batches_of(one, samples, **loading) for one in views))
    for batches in progress_bar(
        both, total=len(samples), title="judging", unit="batches", shown=accelerator.is_main_process
    ):
        yield {name: batch.to(accelerator.device) for name, batch in zip(made, batches)}
