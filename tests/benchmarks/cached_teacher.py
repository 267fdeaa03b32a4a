"""What a teacher costs that is read from its cache: `python tests/benchmarks/cached_teacher.py [PAIR ...]`

Arms: `plain` trains the student with cross entropy, `cached` also with kl from a frozen teacher whose predictions lie
in a full cache, `live` with kl from the teacher itself, and `bf16`, `half_size` and `compiled` from the teacher made
cheaper (`--arms`). Images and labels are random, held in memory; the cached arm goes through 8 batches of different
views. A step is forward, backward and the optimizer's update.

All arms turn by turn in one process, so that they see the same machine; medians over the turns, of the ratios too.
Target: cached at most 1.10 of plain.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from measuring import MIB, random_labels, seconds

from segkd.runner.building.cached import open_caches
from segkd.runner.building.device import prepare_for_device, start_accelerator
from segkd.runner.building.frozen import as_it_is
from segkd.runner.building.graph import Graph, weighted
from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import build_networks
from segkd.runner.building.optimizers import build_optimizers, take_step
from segkd.runner.loading.data_sets import build_dataset
from segkd.runner.recipe.schema import Recipe

R18 = {"model": "deeplabv3", "args": {"backbone": "resnet18", "output_stride": 8}}
R101 = {"model": "deeplabv3", "args": {"backbone": "resnet101", "output_stride": 8}}
V3PLUS = {"source": "timm", "args": {"head": "deeplabv3plus", "output_stride": 16}}
SMALL = V3PLUS | {"model": "mobilenetv3_small_050", "args": V3PLUS["args"] | {"width": 64}}
LITE2 = V3PLUS | {"model": "tf_efficientnet_lite2", "args": V3PLUS["args"] | {"width": 128}}
# name -> student, teacher, crop, classes, batch
PAIRS = {
    "dv3r18_dv3r101": (R18, R101, (512, 512), 19, 2),
    "v3plus_small_lite2": (SMALL, LITE2, (180, 240), 11, 8),
}
# arm -> what it says of the teacher
LIVE = {
    "live": {},
    "bf16": {"precision": "bf16"},
    "half_size": {"input_scale": 0.5},
    "compiled": {"compile": True},
}
BATCHES = 8


def recipe_of(pair: str, arm: str, options: argparse.Namespace, folder: str) -> Recipe:
    """The arm's recipe; its data set lends the cache the names of its images."""
    student, teacher, crop, classes, batch = PAIRS[pair]
    batch = options.batch or batch
    cache = {"views": 1, "logits": options.logits, "bits": options.bits, "folder": folder}
    teacher = (
        teacher | {"train": False, "weights": "random"} | ({"cache": cache} if arm == "cached" else LIVE.get(arm, {}))
    )
    data = {"dataset": "synthetic", "args": {"length": BATCHES * batch}, "crop_size": crop, "batch_size": batch}
    taught = [{"loss": "kl", "label": "kl", "from": "teacher"}] if arm != "plain" else []
    return Recipe(
        name="cached-teacher",
        data=data,
        networks={"student": student} | ({"teacher": teacher} if taught else {}),
        losses=[{"loss": "cross_entropy", "label": "ce"}, *taught],
        schedule={"iterations": 1},
        loop={"precision": options.precision},
    )


class OfClasses:
    """A data set as if it had another number of classes."""

    def __init__(self, dataset, classes: int):
        self.dataset, self.num_classes = dataset, classes
        self.class_names, self.ignore_index = [str(number) for number in range(classes)], dataset.ignore_index

    def __len__(self) -> int:
        return len(self.dataset)

    def stamp(self, index: int) -> tuple:
        """Its name."""
        return self.dataset.stamp(index)


def arm_of(pair: str, arm: str, options: argparse.Namespace, folder: str) -> tuple[Graph, Callable[[], None]]:
    """The graph of an arm and its step."""
    recipe, classes = recipe_of(pair, arm, options, folder), PAIRS[pair][3]
    accelerator: Accelerator = start_accelerator(recipe)
    dataset = OfClasses(build_dataset(recipe, "train"), classes)
    graph = build_graph(recipe, build_networks(recipe, dataset), dataset.ignore_index)
    if arm != "plain":
        with torch.no_grad():  # random weights give scores in the hundred thousands
            for parameter in as_it_is(graph.network("teacher")).classifier.parameters():
                parameter *= 1e-4
    prepare_for_device(graph, recipe, accelerator)
    graph.caches = open_caches(recipe, graph, {"labelled": dataset}, accelerator, tells=False)
    wrapped, *optimizers = accelerator.prepare(graph, *build_optimizers(recipe, graph))
    wrapped.train()
    size = recipe.data.batch_size
    torch.manual_seed(0)
    images = torch.randint(256, (size, *recipe.data.crop_size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    images, target = (
        maps.to(accelerator.device) for maps in (images, random_labels(size, recipe.data.crop_size, classes, 16))
    )
    firsts = itertools.cycle(range(0, BATCHES * size, size))
    weights = graph.weights_at(0)

    def step() -> None:
        first = next(firsts)
        losses = wrapped(images, target, 0, None, [(first + number, 0) for number in range(size)])
        accelerator.backward(sum(weighted(losses, weights).values()))
        take_step(optimizers, accelerator.scaler)

    return graph, step


def measure(pair: str, options: argparse.Namespace) -> None:
    """Prints one pair's table."""
    with tempfile.TemporaryDirectory() as folder:
        arms = {arm: arm_of(pair, arm, options, folder) for arm in ("plain", "cached", *options.arms)}
        graph, step = arms["cached"]
        (cached,) = graph.caches.values()
        since = time.perf_counter()
        for _ in range(BATCHES):
            step()
        filling = time.perf_counter() - since
        assert cached.store.filled().all()
        times = {arm: [] for arm in arms}
        for turn in range(options.repeats + 2):
            for arm, (_, step) in arms.items():
                took = seconds(step)
                if turn > 1:
                    times[arm].append(took)
    print(f"{pair}: {cached.described()}")
    medians = {arm: np.median([one[0] for one in values]) for arm, values in times.items()}
    view = (filling - BATCHES * medians["cached"]) / cached.store.images
    print(f"  filling takes {view:.4f} s a view, {cached.store.view_size / MIB:.3f} MiB each")
    for arm, values in times.items():
        ratios = np.array(values) / np.array(times["plain"])  # (turns, 2): clock, processor
        clock, processor = np.median(ratios, 0)
        print(f"  {arm:10}{medians[arm]:9.4f} s a step, {clock:.3f} of plain (processor {processor:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description="A step whose teacher is read from its cache, beside plain training.")
    parser.add_argument("pairs", nargs="*", choices=[*PAIRS, []], default=list(PAIRS))
    parser.add_argument("--arms", nargs="+", choices=LIVE, default=["live"], help="beside plain and cached")
    parser.add_argument("--repeats", type=int, default=9, help="turns that are counted; two go before them")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--logits", type=lambda word: word if word == "full" else int(word), default="full")
    parser.add_argument("--bits", type=int, default=16, choices=(8, 16))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for pair in options.pairs:
        measure(pair, options)


if __name__ == "__main__":
    main()
