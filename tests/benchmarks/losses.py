"""Time and memory of every loss in losses/: forward and backward at the sizes of the published experiments.

    python tests/benchmarks/losses.py [LOSS ...] [--crop 512 512] [--batch 2] [--classes 19] [--repeats 3] ...

A LOSS is a file name in losses/, with arguments of its own if that is asked for: kl,standardize=true.

Each measurement (arm) is a process of its own: `ours` is the loss, `literal` its formula as it stands in one of the
transcriptions_*.py beside this file, where a function has the loss' file name and takes (loss, student, teacher,
target) with the built loss first, for its adapters and arguments. `step` is what a training step costs without
distillation: student forward and backward, teacher forward, cross entropy.

Time is processor time, which other work on the machine hardly changes: the median over repeats, after one that is not
counted unless it is the only one. Memory is the peak resident size over what was there before the first one (networks,
features, adapters), so that it includes the gradients. Features are random, of the channels and strides of the two
networks; the label is a map of random regions with a part of them ignored. The networks are DeepLabV3 on some backbone,
or those of other files in models/; losses that read what few networks have are measured on such ones (NEEDED).
"""

import argparse
import functools
import json
import math
import resource
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from measuring import IGNORED, in_child, peak, random_labels, seconds
from torch import Tensor, nn

from segkd.losses._task import Features, Task
from segkd.losses.cross_entropy import CrossEntropy
from segkd.models._prediction import Prediction
from segkd.runner.recipe import parts

HERE = Path(__file__).parent
NEEDED = {
    "attention_kl": {"student": "trikd_tinyvit", "teacher": "trikd_deit"},
    "boundary": {"student": "pidnet"},
    "boundary_awareness": {"student": "pidnet"},
    "detail": {"student": "stdc"},
}


def transcriptions() -> dict[str, Callable]:
    """Loss name -> its literal formula, from all transcriptions_*.py."""
    held = [runpy.run_path(str(path)) for path in sorted(HERE.glob("transcriptions_*.py"))]
    return {name: functions[name] for functions in held for name in parts.names("losses") if name in functions}


def network(name: str, classes: int) -> nn.Module:
    """A file in models/ with its defaults, or DeepLabV3 on the backbone of that name."""
    if name in parts.names("models"):
        return parts.build("models", name, {}, classes)
    stem = {"stem": "v1c", "dilation_rule": "mmseg"} if name.startswith("resnet") else {}
    return parts.build("models", "deeplabv3", {"backbone": name, **stem}, classes)


def feature_table(role: str, net: nn.Module) -> Features:
    norms = {name: (torch.ones(channels), torch.zeros(channels)) for name, channels in net.channels.items()}
    return Features(role, net.channels, net.strides, norms=norms)


def random_prediction(net: nn.Module, features: Features, options: argparse.Namespace, learns: bool) -> Prediction:
    """A prediction of the network's sizes, with the features wanted of it; its maps collect a gradient if it learns."""

    def random_map(name: str, channels: int) -> Tensor:
        size = [-(-side // features.strides[name]) for side in options.crop]
        if name == "attention":  # of each token to each token
            size = [math.prod(size)] * 2
        return torch.randn(options.batch, channels, *size).requires_grad_(learns)

    maps = {name: random_map(name, features.channels[name]) for name in sorted(features.wanted)}
    return Prediction(random_map("head", options.classes), net.align_corners, features=maps)


def loss_and_arguments(words: str) -> tuple[str, dict]:
    """The file name and the arguments in `kl,temperature=2,standardize=true`."""
    name, *assignments = words.split(",")
    return name, {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in assignments)}


def suited(options: argparse.Namespace, words: str) -> argparse.Namespace:
    """The options with networks that the loss can be computed on."""
    return argparse.Namespace(**vars(options) | NEEDED.get(loss_and_arguments(words)[0], {}))


def loss_arm(words: str, literal: bool, options: argparse.Namespace) -> Callable[[], None]:
    """One forward and backward of a loss, or of its transcription, on fixed features."""
    (name, arguments), options = loss_and_arguments(words), suited(options, words)
    with torch.device("meta"):  # for their tables of channels and strides
        nets = network(options.student, options.classes), network(options.teacher, options.classes)
    tables = [feature_table(role, net) for role, net in zip(("student", "teacher"), nets, strict=True)]
    loss = parts.build("losses", name, arguments, Task(options.classes, IGNORED, *tables))
    student = random_prediction(nets[0], tables[0], options, learns=True)
    teacher = random_prediction(nets[1], tables[1], options, learns=False)
    target = random_labels(options.batch, options.crop, options.classes, side=32)
    forward = functools.partial(transcriptions()[name], loss) if literal else loss

    def run() -> None:
        value = forward(student, teacher, target)
        total = sum(value.values()) if isinstance(value, dict) else value
        total.backward()
        clear_gradients([loss], [student.logits, *student.features.values()])

    return run


def step_arm(options: argparse.Namespace) -> Callable[[], None]:
    """One plain training step and a forward of the teacher, without the optimizer's update."""
    student, teacher = (network(name, options.classes) for name in (options.student, options.teacher))
    teacher.eval().requires_grad_(False)
    loss = CrossEntropy(Task(options.classes, IGNORED, Features("student", student.channels, student.strides)))
    images = torch.randint(256, (options.batch, 3, *options.crop), dtype=torch.uint8)
    target = random_labels(options.batch, options.crop, options.classes, side=32)

    def run() -> None:
        with torch.no_grad():
            teacher(images)
        loss(student(images), None, target).backward()
        clear_gradients([student], [])

    return run


def clear_gradients(modules: list[nn.Module], leaves: list[Tensor]) -> None:
    for tensor in [*leaves, *(parameter for module in modules for parameter in module.parameters())]:
        tensor.grad = None


def measure(arm: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak GiB of one arm, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    limit = int(options.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    kind, _, name = arm.partition(" ")
    run = step_arm(suited(options, name)) if kind == "step" else loss_arm(name, kind == "literal", options)
    times: list[float] = []

    def repeat() -> None:
        while len(times) <= options.repeats and (not times or times[0] < options.patience):
            times.append(seconds(run)[1])

    mib = peak(repeat)
    return {"seconds": float(np.median(times[1:] or times)), "gib": mib / 1024}


def measured(arm: str, options: argparse.Namespace) -> dict:
    """The measurement of an arm in a fresh process, or {"fault": why there is none}."""
    try:
        return in_child("--arm", arm, *sys.argv[1:])
    except subprocess.CalledProcessError as error:
        if "allocate memory" in error.stderr or error.returncode < 0:
            return {"fault": f"needs more than {options.memory:g} GiB"}
        return {"fault": (error.stderr.strip().splitlines() or ["no message"])[-1]}


HEADS = ["loss", "s", "peak GiB", "literal s", "literal peak GiB", "times faster", "times less memory"]
HEADS += ["share of step + loss", "memory / step's memory"]


def print_row(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def cells_of(result: dict) -> list[str]:
    return [result["fault"], ""] if "fault" in result else [f"{result[key]:.3g}" for key in result]


def ratio(one: dict, other: dict, key: str) -> str:
    return f"{one[key] / other[key]:.3g}" if key in one and other.get(key) else ""


def report(names: list[str], options: argparse.Namespace) -> None:
    height, width = options.crop
    print(
        f"crop {height} x {width}, batch {options.batch}, {options.classes} classes, {options.student} from "
        f"{options.teacher}, float32, {options.threads} threads, torch {torch.__version__}\n"
    )
    written, steps = transcriptions(), {"": measured("step", options)}
    print(f"A step without distillation: {' s, '.join(cells_of(steps['']))} GiB peak over the weights.\n")
    print_row(HEADS)
    print_row(["---"] * len(HEADS))
    for name in names:
        networks = " from ".join(NEEDED.get(loss_and_arguments(name)[0], {}).values())
        if networks not in steps:
            steps[networks] = measured(f"step {name}", options)
        step = steps[networks]
        ours = measured(f"ours {name}", options)
        is_written = loss_and_arguments(name)[0] in written
        literal = measured(f"literal {name}", options) if is_written and "fault" not in ours else {}
        both = {"seconds": ours["seconds"] + step["seconds"]} if "seconds" in ours and "seconds" in step else {}
        row = [name, *cells_of(ours), *(cells_of(literal) or ["", ""])]
        row += [ratio(literal, ours, "seconds"), ratio(literal, ours, "gib")]
        print_row([*row, ratio(ours, both, "seconds"), ratio(ours, step, "gib")])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of the losses; prints a Markdown table.")
    parser.add_argument("losses", nargs="*", metavar="LOSS", help="all of losses/ when left out")
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"), help="in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--student", default="resnet18", help="a file in models/, or a backbone of DeepLabV3")
    parser.add_argument("--teacher", default="resnet101", help="likewise")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--patience", type=float, default=30.0, metavar="S", help="what takes longer is run once only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", type=float, default=12.0, metavar="GIB", help="an arm that needs more is given up")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted({loss_and_arguments(words)[0] for words in options.losses} - set(parts.names("losses")))
    if unknown:
        parser.error(f"no losses/{unknown[0]}.py; there are: {', '.join(parts.names('losses'))}")
    if options.arm:
        print(json.dumps(measure(options.arm, options)))
    else:
        report(options.losses or parts.names("losses"), options)


if __name__ == "__main__":
    main()
