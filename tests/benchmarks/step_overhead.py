"""What the training loop costs beyond the networks: `python tests/benchmarks/step_overhead.py [--steps N]`.

Time: one process trains a recipe with the real loop; after each of its steps it makes one bare step (forward of both
networks, the same losses, backward, optimizer) on a batch held in memory, so that both arms see the same machine.
Memory: each arm alone in a process of its own, peak resident size after a few steps. Loading runs in a worker, so it
counts only where the loop has to wait for it. Targets: time ratio at most 1.02, by the clock where the worker has a
core of its own, memory ratio at most 1.02.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from measuring import MIB, clocks, in_child, resident, seconds

from segkd.losses._task import Task
from segkd.runner import distill
from segkd.runner.building.device import start_accelerator
from segkd.runner.building.graph import features_of
from segkd.runner.building.networks import build_network
from segkd.runner.recipe import parts
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.training import training
from segkd.runner.training.tracking import Tracking

RECIPE = """
name: overhead
data: {dataset: synthetic, crop_size: [96, 128], batch_size: 8, workers: 1}
networks:
  student: {model: deeplabv3, args: {backbone: mobilenetv2_035, output_stride: 16}}
  teacher: {model: deeplabv3, args: {backbone: resnet18, output_stride: 8}, train: false, weights: random}
losses:
  - {loss: cross_entropy}
  - {loss: kl, args: {temperature: 2.0}}
schedule: {iterations: 100000}
evaluate: {every: 100000}
tracking: {wandb: disabled, images: 0}
"""
WARM_UP = 5  # steps that are not counted


class Done(Exception):
    """Enough steps have been made."""


def bare_arm(recipe: Recipe) -> Callable[[], None]:
    """One bare step: the recipe's networks and losses with nothing around them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = {
        name: build_network(name, network, 8, recipe.seed).to(device, memory_format=torch.channels_last)
        for name, network in recipe.networks.items()
    }
    student, teacher = networks["student"].train(), networks["teacher"].eval().requires_grad_(False)
    task = Task(8, 255, features_of("student", student), features_of("teacher", teacher))
    losses = [parts.build("losses", term.loss, term.args, task).to(device) for term in recipe.losses]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    height, width = recipe.data.crop_size
    shape = recipe.data.batch_size, height, width
    images = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8).permute(0, 3, 1, 2).to(device)
    target = torch.randint(0, 8, shape).to(device)

    def step() -> None:
        prediction = student(images)
        with torch.no_grad():
            source = teacher(images)
        sum(loss(prediction, source, target) for loss in losses).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def run_loop(recipe: Recipe, after_step: Callable[[int], None]) -> None:
    """The real loop, calling `after_step` at the end of each of its steps until that raises Done."""

    class Watched(Tracking):
        def end_step(self, iteration: int, *given) -> None:
            super().end_step(iteration, *given)
            after_step(iteration)

    # scoring is not a step
    no_scores = patch.object(training.Report, "score_teachers", lambda *given: None)
    with patch.object(training, "Tracking", Watched), no_scores, suppress(Done):
        distill.train([recipe], start_accelerator(recipe), resume=False)


def compare_times(recipe: Recipe, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps, 2) seconds, clock and processor, of the real loop's steps and of the bare steps between them."""
    bare_step, ours, bare = bare_arm(recipe), [], []
    since = clocks()

    def after_step(iteration: int) -> None:
        nonlocal since
        took, took_bare = clocks() - since, seconds(bare_step)
        if iteration > WARM_UP:
            ours.append(took)
            bare.append(took_bare)
        if len(ours) == steps:
            raise Done
        since = clocks()

    run_loop(recipe, after_step)
    return np.array(ours), np.array(bare)


def print_peak(recipe: Recipe, arm: str) -> None:
    """Makes a few steps of one arm alone and prints MiB: what the imports took, and the peak."""
    at_start = resident("VmHWM")

    def after_step(iteration: int) -> None:
        if iteration == WARM_UP + 20:  # the log has been written by then
            raise Done

    if arm == "loop":
        run_loop(recipe, after_step)
    else:
        step = bare_arm(recipe)
        for _ in range(WARM_UP + 20):
            step()
    most = torch.cuda.max_memory_allocated() / MIB if torch.cuda.is_available() else resident("VmHWM")
    print(json.dumps([at_start, most]), flush=True)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the training loop costs beyond the networks.")
    parser.add_argument("--steps", type=int, default=60, help="counted steps of each arm")
    parser.add_argument("--arm", choices=("loop", "bare"), help="only measure the memory of this arm")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "overhead.yaml"
        file.write_text(RECIPE)
        recipe = read(file, [f"tracking.folder={folder}"])
        if options.arm:
            print_peak(recipe, options.arm)
        ours, bare = compare_times(recipe, options.steps)
    (_, loop), (imports, alone) = (in_child("--arm", arm) for arm in ("loop", "bare"))
    print(f"{'':16}{'loop':>10}{'bare':>10}{'ratio':>8}  target")
    for column, title in enumerate(("s a step", "processor s")):
        pairs = np.stack([ours[:, column], bare[:, column]])
        medians = [np.median(values) for values in (*pairs, pairs[0] / pairs[1])]
        print("{:16}{:10.4f}{:10.4f}{:8.3f}  1.02  (median of {} pairs)".format(title, *medians, len(ours)))
    print(f"{'peak MiB':16}{loop:10.0f}{alone:10.0f}{loop / alone:8.3f}  1.02  (imports alone: {imports:.0f})")


if __name__ == "__main__":
    main()
