"""What training networks together costs beside what each of them costs alone: TSIC and TriKD, or any recipe.

    python tests/benchmarks/online.py [RECIPE ...] [--set key=value ...] [--full-size] [--supervised] ...

The whole step is forward and backward of all active terms and the optimizers' update. A network alone has a forward on
each part of the batch it sees in that step (no gradient where it is frozen), a backward from the mean of its scores,
without any feature, and its update. With --supervised its own cross entropy takes the place of the mean where it has
one, so that it is trained alone as plain training does. Images and labels are random, weights too.

Time: one process makes a step and every network alone in turn, so that all see the same machine; medians over the
rounds, of the ratio too. On a machine that has other work, the ratio of processor times is the steadier one.
Memory: each in a process of its own, the peak over what was there before the first step.
Where the first iteration has fewer terms than the busiest, it is measured as well: a network behind a gate is not run.
Target: at most 1.1 times the networks' time.
"""

import argparse
import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from measuring import IGNORED, in_child, peak, random_labels, seconds
from torch import Tensor, nn

from segkd.losses.cross_entropy import CrossEntropy
from segkd.runner.building.device import prepare_for_device, start_accelerator
from segkd.runner.building.graph import PARTS, Graph, weighted
from segkd.runner.building.losses import build_graph
from segkd.runner.building.optimizers import build_optimizers, take_step
from segkd.runner.check import busiest_iteration
from segkd.runner.loading.batch import Batch
from segkd.runner.recipe import parts
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = ("camvid/tsic_sam_dv3mnv2_96x128.yaml", "camvid/trikd_tiny5m_1_8_96.yaml")
FULL_SIZE = ("cityscapes/tsic_samvitb_dv3r18.yaml", "cityscapes/trikd_tiny11m_1_8_fixed.yaml")
# nothing is downloaded for a measurement
NO_FILES = {"pretrained": False, "backbone_weights": None}


@dataclass
class Setup:
    """A recipe ready for its steps: everything on the device, a batch held there."""

    graph: Graph
    optimizers: list[torch.optim.Optimizer]
    accelerator: Accelerator
    images: dict[str, Tensor]  # part of the batch -> (B, 3, H, W) uint8
    target: Tensor
    unlabelled: Batch | None
    iteration: int
    supervised: dict[str, nn.Module]  # network -> the loss it has alone, in place of the mean of its scores

    def whole_step(self) -> None:
        weights = self.graph.weights_at(self.iteration)
        with self.accelerator.autocast():
            losses = self.graph(self.images["labelled"], self.target, self.iteration, self.unlabelled)
        self.accelerator.backward(sum(weighted(losses, weights).values()))
        take_step(self.optimizers, self.accelerator.scaler)

    def alone(self, name: str) -> None:
        """One network as it would be without the others; those without gradients are left as they are."""
        network, trained, scores = self.graph.network(name), name in self.graph.networks, []
        wanted, network.features_wanted = network.features_wanted, set()
        with self.accelerator.autocast(), torch.set_grad_enabled(trained):
            for part in sorted(parts_seen(self.graph, self.iteration)[name]):
                images = self.images[part]
                prompt = (images[:, :1].float() % network.num_classes,) if name in self.graph.prompted_by else ()
                prediction = network(images, *prompt)
                if name in self.supervised and part == "labelled":
                    scores.append(self.supervised[name](prediction, None, self.target))
                else:
                    scores += [x.float().mean() for x in (prediction.logits, prediction.aux) if x is not None]
        network.features_wanted = wanted
        if trained:
            self.accelerator.backward(sum(scores))
            take_step(self.optimizers, self.accelerator.scaler)


def parts_seen(graph: Graph, iteration: int) -> dict[str, set[str]]:
    """Network -> the parts of a batch that the active terms read it on, or its prompts need it on."""
    seen: dict[str, set[str]] = {}
    for term in graph.active_terms(iteration):
        for of_part, source_part in PARTS[term.on]:
            for name, part in ((term.of, of_part), (term.source, source_part)):
                if name is not None:
                    seen.setdefault(name, set()).add(part)
    for name, prompter in graph.prompted_by.items():
        if name in seen:
            seen.setdefault(prompter, set()).update(seen[name])
    return seen


def set_up(recipe: Recipe, iteration: int | None, supervised: bool) -> Setup:
    """The recipe with random weights and a random batch; at its busiest iteration without another."""
    torch.manual_seed(0)
    num_classes = getattr(parts.find("datasets", recipe.data.dataset), "num_classes", 19)
    networks = {}
    for name, network in recipe.networks.items():
        if network.ema_of is None:
            files = {key: value for key, value in NO_FILES.items() if key in network.args}
            file, arguments = parts.network_part(network.source, network.model, network.args | files)
            networks[name] = parts.build("models", file, arguments, num_classes)
    accelerator = start_accelerator(recipe)
    graph = build_graph(recipe, networks, IGNORED).train()
    prepare_for_device(graph, recipe, accelerator)
    optimizers = build_optimizers(recipe, graph)
    images, target = random_batch(recipe, recipe.data.batch_size, num_classes, accelerator.device)
    found, unlabelled = {"labelled": images}, None
    if recipe.data.unlabelled is not None:
        others, padding = random_batch(recipe, recipe.data.unlabelled.batch_size, 1, accelerator.device)
        unlabelled = Batch(others, padding, [], strong=others, mixed=padding == IGNORED)
        found |= {"unlabelled": others, "strong": others}
    at = busiest_iteration(graph, recipe) if iteration is None else iteration
    terms = [term for term in graph.active_terms(at) if isinstance(graph.losses[term.label], CrossEntropy)]
    alone = {term.of: graph.losses[term.label] for term in terms} if supervised else {}
    return Setup(graph, optimizers, accelerator, found, target, unlabelled, at, alone)


def random_batch(recipe: Recipe, count: int, num_classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise and labels."""
    target = random_labels(count, recipe.data.crop_size, num_classes, side=16)
    return torch.randint(256, (count, 3, *recipe.data.crop_size), dtype=torch.uint8).to(device), target.to(device)


def measure_times(setup: Setup, rounds: int) -> dict[str, object]:
    """Median seconds of a step and of each network alone, and the ratio of the step to their sum, round by round."""
    names = sorted(parts_seen(setup.graph, setup.iteration))
    arms = [setup.whole_step, *(functools.partial(setup.alone, name) for name in names)]
    for arm in arms:
        arm()
    table = np.array([[seconds(arm) for arm in arms] for _ in range(rounds)])  # (rounds, arms, clock and processor)
    ratios = table[:, 0] / table[:, 1:].sum(1)  # (rounds, 2)
    return {"seconds": dict(zip(("step", *names), np.median(table[..., 0], 0))), "ratios": ratios.tolist()}


def measure_memory(setup: Setup, arm: str) -> float:
    """MiB over what the networks and the batch take, of a few steps of one arm."""
    step = setup.whole_step if arm == "step" else functools.partial(setup.alone, arm)
    return peak(lambda: [step() for _ in range(3)])


def measured(file: str, arm: str, iteration: int | None) -> object:
    """What another process measures of one arm of a recipe."""
    at = [] if iteration is None else ["--iteration", str(iteration)]
    return in_child(*sys.argv[1:], "--arm", file, arm, *at)


def report(file: str, options: argparse.Namespace, iteration: int | None = None) -> None:
    """Measures a recipe at its busiest iteration, or at another, and prints the table."""
    found = measured(file, "times", iteration)
    names = [name for name in found["seconds"] if name != "step"]
    memory = {arm: measured(file, arm, found["iteration"]) for arm in (*names, "step")}
    print(f"{Path(file).stem}, iteration {found['iteration']}")
    print(f"  {'':24}{'s':>9}{'MiB':>9}")
    for arm, mib in memory.items():
        print(f"  {arm if arm == 'step' else arm + ' alone':24}{found['seconds'][arm]:9.3f}{mib:9.0f}")
    clock, processor = np.median(found["ratios"], 0)
    low, high = np.quantile(found["ratios"], (0.25, 0.75), axis=0)[:, 0]
    share = memory["step"] / sum(memory[name] for name in names)
    print(f"  {'step / sum of networks':24}{clock:9.3f}{share:9.3f}", end="  ")
    print(f"(quartiles {low:.3f} to {high:.3f}; processor time {processor:.3f}; {options.rounds} rounds)\n", flush=True)
    if iteration is None and found["fewer_at_first"]:
        report(file, options, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="A step of several networks beside each of them alone.")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="the small TSIC and TriKD recipes when left out")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="laid over each recipe")
    parser.add_argument("--full-size", action="store_true", help="the recipes for Cityscapes, not the small ones")
    parser.add_argument("--supervised", action="store_true", help="networks alone learn from labels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--arm", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--iteration", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.arm:
        small_or_full = [str(RECIPES / file) for file in (FULL_SIZE if options.full_size else SMALL)]
        for file in options.recipes or small_or_full:
            report(file, options)
        return
    file, arm = options.arm
    torch.set_num_threads(options.threads)
    setup = set_up(read(file, options.set), options.iteration, options.supervised)
    if arm == "times":
        active = [len(setup.graph.active_terms(at)) for at in (0, setup.iteration)]
        found = {"iteration": setup.iteration, "fewer_at_first": active[0] < active[1]}
        found |= measure_times(setup, options.rounds)
    else:
        found = measure_memory(setup, arm)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
