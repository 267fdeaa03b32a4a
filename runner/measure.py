"""Measures networks side by side: `python runner/measure.py NETWORK [NETWORK ...] [--size H W] [--picture PNG]`.

A NETWORK is a run folder, a student folder or an exported file (.onnx, .pt2): parameters, operations, size of its file,
memory and latency of one image, taken in turn (A B A B), beside the mIoU that each says of itself.
"""

import argparse
from pathlib import Path

from segkd.runner.command import ask_early, new_parser, run_command
from segkd.runner.recipe.ranges import SIDES, are_within
from segkd.runner.run_folder.replacing import refuse_existing, write_text


def ask() -> argparse.Namespace:
    """The options."""
    parser = new_parser("Measure what networks cost, side by side.")
    parser.add_argument(
        "networks", nargs="+", metavar="NETWORK", help="run folders, student folders, .onnx, .pt2 files"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of the image (default: the first network's own)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: torch's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what computes (default: cpu)")
    parser.add_argument(
        "--rounds", type=int, default=50, metavar="N", help="timed images of each network (default: 50)"
    )
    parser.add_argument("--json", type=Path, metavar="JSON", help="also write the numbers to this file")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw mIoU over latency")
    parser.add_argument("--overwrite", action="store_true", help="write over files that are there")
    options = parser.parse_args()
    for name in ("threads", "rounds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)}: at least 1")
    if options.size and not are_within(options.size, SIDES):
        raise ValueError(f"--size {options.size}: height and width in pixels are from {SIDES.ge} to {SIDES.le}")
    for file in filter(None, (options.json, options.picture)):
        refuse_existing(file, options.overwrite)
    return options


ask = ask_early(ask, __name__)  # before the imports that take seconds

import json
from dataclasses import asdict

import torch

from segkd.runner.console import markdown, number, percent, say
from segkd.runner.run_folder.folder import refuse_inside_a_run
from segkd.runner.run_folder.opening import device_words
from segkd.runner.scoring.measurement import Measurement, draw, measure, on_the_front

FRONT = "†"  # a star would have to be escaped in Markdown


def main() -> None:
    options = ask()
    for file in filter(None, (options.json, options.picture)):
        refuse_inside_a_run(file)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here")
    size = options.size and tuple(options.size)
    found, size = measure(options.networks, size, options.device, options.rounds)
    where = device_words(torch.device(options.device))
    say(table(found))
    say(
        f"\none {size[0]}x{size[1]} image, {options.rounds} times in turn on {where}; mIoU: as each says of itself; "
        f"{FRONT}: no other is both as fast and as good"
    )
    if options.json:
        values = {"size": size, "device": options.device, "where": where, "networks": [asdict(one) for one in found]}
        write_text(options.json, json.dumps(values, indent=2) + "\n")
    if options.picture:
        draw(found, options.picture)
    for file in filter(None, (options.json, options.picture)):
        say(f"written: {file}")


def table(found: list[Measurement]) -> str:
    """A line for each network; FRONT where no other is both faster and better."""
    columns = [
        "network",
        "computed by",
        "mIoU (%)",
        "parameters",
        "GFLOPs",
        "MB",
        "memory (MB)",
        "median ms",
        "95 % below ms",
    ]
    front = on_the_front(found)
    lines = [
        [
            f"{one.name} {FRONT}" if one in front else one.name,
            one.engine,
            percent(one.miou),
            number(one.parameters and one.parameters / 1e6, "{:.2f} M"),
            number(one.flops and one.flops / 1e9),
            number(one.bytes / 1e6),
            number(one.memory and one.memory / 1e6, "{:.0f}"),
            number(one.median),
            number(one.p95),
        ]
        for one in found
    ]
    return markdown(columns, lines)


if __name__ == "__main__":
    run_command(main)
