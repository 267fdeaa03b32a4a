"""What the graph makes of a frozen teacher's forward: `python tests/benchmarks/frozen_teacher.py [--crop 512 512] ...`

The teacher is DeepLabV3 on ResNet-101 at output stride 8. Arms: `graph` is a recipe's frozen teacher, run by the graph
of a training step; `bare` is the module alone in eval mode under no_grad, in the memory format recipes have (channels
last); `contiguous` is that in torch's own. Each in float32 and under bfloat16 autocast. There is one more arm for other
callers, `compiled`: bare, through torch.compile.

Time: all arms turn by turn in one process, so that they see the same machine; the median over turns. Memory: each arm
in a process of its own, the peak of a forward over what lay there before it. Targets: the graph takes at most 1.05 of
the bare module's time and memory, and on a GPU bfloat16 is at least 1.6 times as fast as float32.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from measuring import in_child, peak, seconds

from segkd.models._prediction import Prediction
from segkd.runner.building.device import prepare_for_device, start_accelerator
from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import build_network
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Recipe

CLASSES = 19
TEACHER = {"backbone": "resnet101", "stem": "v1c", "dilation_rule": "mmseg"}
STUDENT = {"backbone": "mobilenetv2_035", "width": 8}
ARMS = ("contiguous", "bare", "graph")
PRECISIONS = ("fp32", "bf16")


def recipe_of(options: argparse.Namespace) -> Recipe:
    """A student and a frozen teacher whose scores one term reads."""
    return Recipe(
        name="frozen-teacher",
        data={"dataset": "synthetic", "crop_size": tuple(options.crop), "batch_size": options.batch},
        networks={
            "student": {"model": "deeplabv3", "args": STUDENT},
            "teacher": {"model": "deeplabv3", "args": TEACHER, "train": False, "weights": "random"},
        },
        losses=[{"loss": "kl", "label": "kl", "from": "teacher"}],
        schedule={"iterations": 1},
    )


def forward_of(arm: str, options: argparse.Namespace) -> Callable[[str], Prediction]:
    """precision -> the teacher's prediction, gradients on as in a training step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, *options.crop)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)
    if arm == "graph":
        recipe = recipe_of(options)
        networks = {name: build_network(name, entry, CLASSES, 0) for name, entry in recipe.networks.items()}
        graph = build_graph(recipe, networks, ignore_index=255)
        prepare_for_device(graph, recipe, start_accelerator(recipe))
        graph.train()

        def run() -> Prediction:
            return graph.predict(["teacher"], images)[0]
    else:
        memory_format = torch.contiguous_format if arm == "contiguous" else torch.channels_last
        network = parts.build("models", "deeplabv3", TEACHER, CLASSES).eval()
        network.to(device=device, memory_format=memory_format)
        if arm == "compiled":
            network.compile(dynamic=False)

        def run() -> Prediction:
            with torch.no_grad():
                return network(images)

    def forward(precision: str) -> Prediction:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return run()

    return forward


def main() -> None:
    parser = argparse.ArgumentParser(description="What the graph makes of a frozen teacher's forward.")
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="turns that are counted; one goes before them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", nargs=2, metavar=("ARM", "PRECISION"), help="only print the memory of this arm")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        arm, precision = options.memory
        forward = forward_of(arm, options)
        forward(precision)  # the first one, which libraries set up in, is left out
        print(peak(partial(forward, precision)))
        return
    forwards = {arm: forward_of(arm, options) for arm in ARMS}
    times: dict[tuple[str, str], list[float]] = {(arm, precision): [] for precision in PRECISIONS for arm in ARMS}
    for turn in range(options.repeats + 1):
        for arm, precision in times:
            times[arm, precision].append(seconds(partial(forwards[arm], precision))[0])
    found = {key: np.median(values[1:]) for key, values in times.items()}
    print(f"{'':14}{'seconds':>10}{'MiB':>8}{'to bare: time':>15}{'memory':>8}")
    for precision in PRECISIONS:
        peaks = {arm: in_child(*sys.argv[1:], "--memory", arm, precision) for arm in ARMS}
        for arm in ARMS:
            ratios = found[arm, precision] / found["bare", precision], peaks[arm] / peaks["bare"]
            print(f"{precision} {arm:11}{found[arm, precision]:8.4f}{peaks[arm]:8.0f}{ratios[0]:15.3f}{ratios[1]:8.3f}")
    speeds = ", ".join(f"{arm} {found[arm, 'fp32'] / found[arm, 'bf16']:.2f}" for arm in ARMS)
    print(f"bf16 is faster by a factor of: {speeds}")


if __name__ == "__main__":
    main()
