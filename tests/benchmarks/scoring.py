"""What scoring an image costs beside the network: `python tests/benchmarks/scoring.py [--size 1024 2048] ...`

The network is DeepLabV3 on ResNet-18 at output stride 8, the metric the confusion matrix, the data one random image.

Memory: from the network's scores to the counts, the peak over what lay there before. `strips` is what an evaluation
does, where the scores of a few classes at a time come to the size of the label; `map` is the plain way, a resize of all
classes and their argmax. Each in a process of its own. Time: an image scored and the bare forward pass, turn by turn in
one process; the median over turns. Targets: at most 0.4 of the map's memory, at most 1.15 of the bare forward's time.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from measuring import in_child, peak, random_labels, seconds
from torch import Tensor, nn

from segkd.models._prediction import Prediction
from segkd.runner.loading.batch import Batch
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Recipe
from segkd.runner.scoring.evaluation import label_map
from segkd.runner.scoring.metrics._metric import Split
from segkd.runner.scoring.metrics.confusion import Confusion

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ARGUMENTS = {"backbone": "resnet18", "output_stride": 8}


class Scored(nn.Module):
    """A network that has made its prediction already."""

    def __init__(self, prediction: Prediction):
        super().__init__()
        self.prediction = prediction

    def forward(self, images: Tensor) -> Prediction:
        return self.prediction


def build(options: argparse.Namespace) -> tuple[nn.Module, Batch, Recipe, Confusion]:
    """The network, a batch of one image, and what it is scored by."""
    torch.manual_seed(0)
    recipe = Recipe(
        name="scoring",
        data={"dataset": "synthetic", "crop_size": (64, 64)},
        networks={"student": {"model": "deeplabv3", "args": ARGUMENTS}},
        losses=[{"loss": "cross_entropy", "label": "cross_entropy"}],
        schedule={"iterations": 1},
    )
    network = parts.build("models", "deeplabv3", ARGUMENTS, options.classes).eval()
    network.to(device=DEVICE, memory_format=torch.channels_last)
    images = torch.randint(256, (1, *options.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)  # as it is loaded
    target = random_labels(1, tuple(options.size), options.classes, side=32)
    metric = Confusion(Split(tuple(map(str, range(options.classes)))))
    return network, Batch(images, target, [0]).to(DEVICE), recipe, metric


def memory_step(arm: str, options: argparse.Namespace) -> Callable[[], object]:
    """From the network's scores to the counts of the image."""
    network, batch, recipe, metric = build(options)
    with torch.no_grad():
        prediction = network(batch.images)

    def step() -> object:
        if arm == "strips":
            chosen = label_map(Scored(prediction), batch, recipe)
        else:
            size = batch.target.shape[-2:]
            scores = F.interpolate(prediction.logits, size, mode="bilinear", align_corners=prediction.align_corners)
            chosen = scores.argmax(1)
        return metric.count(None, chosen, batch.target)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description="What scoring an image costs beside the network.")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--repeats", type=int, default=5, help="turns that are counted; one goes before them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=("strips", "map"), help="only print the memory of this arm")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        step = memory_step(options.memory, options)
        step()  # the first one, which libraries set up in, is left out
        print(peak(step))
        return
    network, batch, recipe, metric = build(options)

    @torch.no_grad()
    def forward() -> Prediction:
        return network(batch.images)

    def score() -> object:
        return metric.count(None, label_map(network, batch, recipe), batch.target)

    times = np.array([[seconds(step) for step in (score, forward)] for _ in range(options.repeats + 1)])[1:]
    strips, whole = (in_child(*sys.argv[1:], "--memory", arm) for arm in ("strips", "map"))
    print(f"{'':20}{'ours':>10}{'beside':>10}{'ratio':>8}  target")
    for column, title in enumerate(("s an image", "processor s")):
        ours, bare = times[:, :, column].T
        ratio = np.median(ours / bare)
        print(f"{title:20}{np.median(ours):10.4f}{np.median(bare):10.4f}{ratio:8.3f}  1.15  (beside: bare forward)")
    print(f"{'peak MiB':20}{strips:10.0f}{whole:10.0f}{strips / whole:8.3f}  0.4   (beside: a map of all classes)")


if __name__ == "__main__":
    main()
