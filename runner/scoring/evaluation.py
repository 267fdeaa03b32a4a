"""Scores a network on a whole split: every image once, over however many processes, by all metrics in one pass."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from segkd.models._prediction import Prediction
from segkd.runner.building.graph import Graph
from segkd.runner.console import command, progress_bar
from segkd.runner.loading.batch import Batch
from segkd.runner.loading.data_sets import fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Recipe
from segkd.runner.scoring.inference import predict
from segkd.runner.scoring.metrics._metric import Metric, Split, Values
from segkd.runner.scoring.metrics.confusion import Confusion


@dataclass(frozen=True)
class Evaluation:
    """What scoring a split gives.

    Attributes:
        metrics: those that scored it, by name.
        values: what they say of the whole split, by the names of the values.
        counts: metric -> what it counted over the split; counts of single images are in the data set's order.
        names: N image names, in that order.
    """

    metrics: dict[str, Metric]
    values: Values
    counts: dict[str, dict[str, Tensor]]
    names: list[str]

    @property
    def headline(self) -> dict[str, str]:
        """The values that are shown beside mIoU, with their titles."""
        return {name: title for metric in self.metrics.values() for name, title in metric.headline.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """What images.npz holds, for comparisons of runs image by image and for reports: what `Confusion` has counted,
        (N, K, 3) of the images and (K, K) of the split.
        """
        counts = self.counts["confusion"]
        return {"names": np.array(self.names), "counts": counts["images"].numpy(), "matrix": counts["matrix"].numpy()}


def build_metrics(recipe: Recipe, dataset: Dataset) -> dict[str, Metric]:
    """The confusion matrix, which every evaluation counts, and what `evaluate.metrics` names besides."""
    settings = recipe.evaluate
    split = Split(tuple(dataset.class_names), dataset.ignore_index, settings.absent, settings.average)
    further = {name: parts.build(parts.METRICS, name, values, split) for name, values in settings.metrics.items()}
    return {"confusion": Confusion(split), **further}


def values_in(row: dict, metrics: dict[str, Metric]) -> Values:
    """The values of metrics in a row of metrics.jsonl; not all need be there, after a resume with other metrics."""
    prefixes = tuple(f"{name}_" for name in metrics)
    bare = (*Confusion.names, *Confusion.names_per_class) if "confusion" in metrics else ()
    # a name with a slash is of one of evaluate.also
    own = (name for name in row if name in bare or (name.startswith(prefixes) and "/" not in name))
    return {name: row[name] for name in own}


def text_of(metrics: dict[str, Metric], values: Values) -> str:
    """The values as Markdown, as each metric words its own; metrics that have none among them say nothing."""
    return "\n\n".join(metric.text(values) for name, metric in metrics.items() if values_in(values, {name: metric}))


class Stopped(BaseException):
    """Somebody has asked to stop. No Exception: nobody who catches those may take it for a failure of their own."""


def evaluate(
    network: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    accelerator: Accelerator,
    title: str,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Scores `network` on `dataset` by the recipe's `evaluate` section; the same on all processes.

    The network is put in eval mode and back. Scoring runs in float32 whatever the training precision.

    Args:
        is_stopped: asked after each batch, whether to leave it at that.

    Raises:
        Stopped: on all processes, where one of them was stopped. ValueError: no pixel of the split has a label.
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
        timeout=recipe.loop.timeout,
    )
    metrics = build_metrics(recipe, dataset)
    counts = {name: _nothing_counted(metric, len(dataset), accelerator.device) for name, metric in metrics.items()}
    mine = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    reads_scores = any(metric.reads_scores for metric in metrics.values())
    steps = -(-len(mine) // recipe.evaluate.batch_size)
    for batch in progress_bar(batches, total=steps, title=title, unit="batches", shown=accelerator.is_main_process):
        batch = batch.to(accelerator.device)
        scores = class_scores(network, batch, recipe) if reads_scores else None
        prediction = label_map(network, batch, recipe) if scores is None else scores.argmax(1)
        for name, metric in metrics.items():
            seen = scores if metric.reads_scores else None
            for key, found in metric.count(seen, prediction, batch.target).items():
                if key in metric.per_image:
                    counts[name][key][batch.indices] = found
                else:
                    counts[name][key] += found
        if is_stopped():
            break
    network.train(was_training)
    if accelerator.reduce(torch.tensor(float(is_stopped()), device=accelerator.device), reduction="sum") > 0:
        raise Stopped
    counts = {
        name: {key: accelerator.reduce(found, reduction="sum").cpu() for key, found in own.items()}
        for name, own in counts.items()
    }
    if counts["confusion"]["matrix"].sum() == 0:
        raise ValueError(
            f"{title}: no pixel of the {len(dataset)} images has a label that counts; check the label folder and the ids "
            f"({command('check')} shows how they are spread)"
        )
    values = {key: value for name, metric in metrics.items() for key, value in metric.values(counts[name]).items()}
    assert values_in(values, metrics) == values, "the names of a metric's values begin with the metric's own"
    return Evaluation(metrics, values, counts, [dataset.name(index) for index in range(len(dataset))])


def _nothing_counted(metric: Metric, images: int, device: torch.device) -> dict[str, Tensor]:
    """The counts of a split before its first batch; a process without an image has these to add, too."""
    scores = torch.zeros(0, metric.split.num_classes, 1, 1, device=device)
    target = scores[:, 0].long()
    return {
        key: found.new_zeros(images, *found.shape[1:]) if key in metric.per_image else found
        for key, found in metric.count(scores, target, target).items()
    }


class Together(nn.Module):
    """The mean of several networks' probabilities as one network's prediction; of one alone, its own.

    Prompts are made as in training. Shapes: logits (B, K, H, W), log of the mean probability, at the images' size.
    """

    def __init__(self, graph: Graph, names: list[str]):
        super().__init__()
        self._graph = (graph,)  # inside a tuple nn.Module does not see it
        self.names = names
        needed = dict.fromkeys([*names, *(graph.prompted_by.get(name, name) for name in names)])
        # frozen networks keep to their mode and device
        self.trained = nn.ModuleList(graph.networks[name] for name in needed if name in graph.networks)
        first = graph.network(names[0])
        self.num_classes, self.normalize = first.num_classes, first.normalize

    def forward(self, images: Tensor) -> Prediction:
        found = self._graph[0].predict(self.names, images)
        if len(found) == 1:
            return found[0]
        mean = sum(one.resized(images.shape[-2:]).softmax(1) for one in found) / len(found)
        return Prediction(mean.clamp_min(1e-12).log())


def evaluate_also(
    graph: Graph,
    dataset: Dataset,
    recipe: Recipe,
    accelerator: Accelerator,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Evaluation]:
    """Evaluations of what `evaluate.also` names, by its words; `is_stopped` as in `evaluate`."""
    return {
        words: evaluate(Together(graph, words.split("+")), dataset, recipe, accelerator, f"scoring {words}", is_stopped)
        for words in recipe.evaluate.also
    }


def scores_of(result: Evaluation, others: dict[str, Evaluation]) -> dict:
    """What the log has of an evaluation: the student's values, and the headlines of what `evaluate.also` names."""
    headlines = {
        words: {key: other.values[key] for key in ("miou", *other.headline)} for words, other in others.items()
    }
    return result.values | {f"{key}/{words}": value for words, own in headlines.items() for key, value in own.items()}


def label_map(network: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
    """(B, H, W) predicted classes at the labels' size, by the recipe's `evaluate` section."""
    return _predict(network, batch, recipe, classes=True)


def class_scores(network: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
    """(B, K, H, W) scores at the labels' size by the recipe's `evaluate` section, averaged as it says."""
    return _predict(network, batch, recipe, classes=False)


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # else loop.compile compiles anew for every image size
def _predict(network: nn.Module, batch: Batch, recipe: Recipe, *, classes: bool) -> Tensor:
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
        classes=classes,
    )
