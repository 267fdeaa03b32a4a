"""Scores a network on a whole split: every image once, over however many processes, into one confusion matrix."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from segkd.models._prediction import Prediction
from segkd.runner.building.graph import Graph
from segkd.runner.loading.batch import Batch
from segkd.runner.loading.data_sets import fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.recipe.schema import Recipe
from segkd.runner.scoring.confusion import Scores, confusion_matrix, scores
from segkd.runner.scoring.inference import predict

# (scores (B, K, H, W), target (B, H, W)) -> counts that add up over images
Count = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What scoring a split gives.

    Attributes:
        scores: of the whole split.
        names: N image names, in the data set's order.
        counts: (N, K, 3) int64, for each image and class its intersection, label pixels and predicted pixels. Their
            sums over the images, i, l and p, give the split's IoU, i / (l + p - i).
        matrix: (K, K) int64, the confusion matrix, rows = target, columns = prediction.
        further: what else was asked for, summed over the images.
    """

    scores: Scores
    names: list[str]
    counts: torch.Tensor
    matrix: torch.Tensor
    further: dict[str, torch.Tensor]

    def arrays(self) -> dict[str, np.ndarray]:
        """What images.npz holds, for comparisons of runs image by image."""
        return {"names": np.array(self.names), "counts": self.counts.numpy()}


def evaluate(
    network: nn.Module,
    dataset: torch.utils.data.Dataset,
    recipe: Recipe,
    accelerator: Accelerator,
    title: str,
    further: Mapping[str, Count] | None = None,
) -> Evaluation:
    """Scores `network` on `dataset` by the recipe's `evaluate` section; the same on all processes.

    The network is put in eval mode and back. Scoring runs in float32 whatever the training precision.

    Args:
        further: what else to count in the same pass, by name.
    """
    was_training = network.training
    network.eval()
    batches = evaluation_batches(
        dataset,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        batch_size=recipe.evaluate.batch_size,
        workers=recipe.data.workers,
        resize=fixed_resize(recipe, scoring=True),
        pin_memory=accelerator.device.type == "cuda",
    )
    integers = {"dtype": torch.int64, "device": accelerator.device}
    matrix = torch.zeros(network.num_classes, network.num_classes, **integers)
    counts = torch.zeros(len(dataset), network.num_classes, 3, **integers)
    further = dict(further or {})
    # what no image gives: a process without one has something to add, too
    nothing = torch.zeros(0, network.num_classes, 1, 1, device=accelerator.device)
    sums = {name: count(nothing, nothing[:, 0].long()) for name, count in further.items()}
    mine = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    steps, indices = -(-len(mine) // recipe.evaluate.batch_size), iter(mine)
    for batch in progress(batches, total=steps, title=title, shown=accelerator.is_main_process):
        batch = batch.to(accelerator.device)
        maps = class_scores(network, batch, recipe)
        for name, count in further.items():
            sums[name] += count(maps, batch.target)
        for prediction, target in zip(maps.argmax(1), batch.target):
            found = confusion_matrix(prediction, target, network.num_classes, dataset.ignore_index)
            counts[next(indices)] = torch.stack([found.diagonal(), found.sum(1), found.sum(0)], dim=1)  # (K, 3)
            matrix += found
    network.train(was_training)
    matrix = accelerator.reduce(matrix, reduction="sum").cpu()
    counts = accelerator.reduce(counts, reduction="sum").cpu()
    sums = {name: accelerator.reduce(found, reduction="sum").cpu() for name, found in sums.items()}
    if matrix.sum() == 0:
        raise ValueError(
            f"no pixel of the {len(dataset)} images of {recipe.data.val_split} has a label that counts; check the "
            f"label folder and the ids (runner/check.py shows how they are spread)"
        )
    names = [dataset.name(index) for index in range(len(dataset))]
    return Evaluation(scores(matrix, recipe.evaluate.absent), names, counts, matrix, sums)


class Together(nn.Module):
    """The mean of several networks' probabilities as one network's prediction; of one alone, its own.

    Prompts are made as in training. Shapes: logits (B, K, H, W), log of the mean probability, at the images' size.
    """

    def __init__(self, graph: Graph, names: list[str]):
        super().__init__()
        self._graph = (graph,)  # inside a tuple nn.Module does not see it
        self.names = names
        first = graph.network(names[0])
        self.num_classes, self.normalize = first.num_classes, first.normalize

    def forward(self, images: torch.Tensor) -> Prediction:
        found = self._graph[0].predict(self.names, images)
        if len(found) == 1:
            return found[0]
        mean = sum(one.resized(images.shape[-2:]).softmax(1) for one in found) / len(found)
        return Prediction(mean.clamp_min(1e-12).log())

    def train(self, mode: bool = True) -> "Together":
        """Puts the networks, and those that prompt them, in training or eval mode."""
        super().train(mode)
        graph = self._graph[0]
        for name in {*self.names, *(graph.prompted_by.get(name, name) for name in self.names)} & {*graph.networks}:
            graph.network(name).train(mode)
        return self


def evaluate_also(
    graph: Graph, dataset: torch.utils.data.Dataset, recipe: Recipe, accelerator: Accelerator
) -> dict[str, Scores]:
    """Scores of what `evaluate.also` names, by its words."""
    return {
        words: evaluate(
            Together(graph, words.split("+")).train(graph.training),
            dataset,
            recipe,
            accelerator,
            title=f"scoring {words}",
        ).scores
        for words in recipe.evaluate.also
    }


def label_map(network: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """(B, H, W) predicted classes at the labels' size, by the recipe's `evaluate` section."""
    return class_scores(network, batch, recipe).argmax(1)


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # else loop.compile compiles anew for every image size
def class_scores(network: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """(B, K, H, W) scores at the labels' size by the recipe's `evaluate` section, averaged as it says."""
    settings = recipe.evaluate
    return predict(
        network,
        batch.images,
        batch.target.shape[-2:],
        mode=settings.mode,
        window=settings.window or recipe.data.crop_size,
        stride=settings.stride,
        smaller=settings.smaller,
        scales=tuple(settings.scales),
        flip=settings.flip,
        average=settings.average,
        resizes=settings.resizes,
        align_corners=settings.align_corners,
    )


def progress(items: Iterable, *, total: int, title: str, shown: bool) -> Iterable:
    """A progress bar with the time left, on terminals only: in a log file it would be noise."""
    return tqdm(items, total=total, desc=title, leave=False, disable=None if shown else True, dynamic_ncols=True)
