"""Turns what a run has delivered into files that others load: `python runner/export.py runs/<name> --to onnx`.

segkd: config.json, model.safetensors, recipe.yaml and a card, for from_pretrained. mmseg (or cirkd, aicsd, ...): a
checkpoint with that code's keys. torchvision, timm (the backbone alone), hf: what these libraries load. onnx, torch:
one file that needs no code of ours. Each export is compared with the network it comes from, at two sizes, and leaves
no file if it differs.
"""

import argparse
from pathlib import Path

from segkd.runner.command import ask_early, new_parser, run_command


def ask() -> argparse.Namespace:
    """The options."""
    parser = new_parser("Export a delivered network.")
    parser.add_argument("source", help="a run folder, or a student folder")
    parser.add_argument(
        "--to", required=True, metavar="TARGET", help="segkd, a code such as mmseg or cirkd, timm, hf, onnx or torch"
    )
    parser.add_argument("--output", type=Path, help="file or folder to write (default: in the source's folder export/)")
    parser.add_argument("--network", default="student", help="which network of the run (default: student)")
    parser.add_argument(
        "--input-size", type=int, nargs=2, metavar=("H", "W"), help="size it is traced, compared and timed at "
        "(default: the crop size it was trained on)"
    )  # fmt: skip
    parser.add_argument("--fixed-size", action="store_true", help="onnx and torch: take images of this size only")
    parser.add_argument(
        "--keys-only", action="store_true", help="mmseg, cirkd, ...: even where that code's network differs"
    )
    parser.add_argument("--push-to-hub", metavar="USER/REPO", help="segkd: upload the folder to the Hugging Face Hub")
    parser.add_argument("--private", action="store_true", help="a repository that --push-to-hub makes is private")
    return parser.parse_args()


ask = ask_early(ask, __name__)  # before the imports that take seconds

import torch

from segkd.models._checkpoints import LAYOUTS
from segkd.runner.building.delivered import Delivered, find
from segkd.runner.console import say
from segkd.runner.exporting.agreement import Export
from segkd.runner.exporting.hub import push, write_card
from segkd.runner.exporting.other_codes import (
    write_huggingface,
    write_layout,
    write_segkd,
    write_timm,
    write_torchvision,
)
from segkd.runner.exporting.programs import write_onnx, write_program
from segkd.runner.run_folder.folder import RunFolder, refuse_inside_a_run
from segkd.runner.run_folder.replacing import replacing
from segkd.runner.scoring.cost import flops, latency

# target -> what is added to the network's name for the default output
ENDINGS = {"segkd": "-segkd", "hf": "-hf", "onnx": ".onnx", "torch": ".pt2", "timm": ".timm.safetensors"}
FOLDERS = ("segkd", "hf")
PROGRAMS = {"onnx": write_onnx, "torch": write_program}
LIBRARIES = {
    "segkd": write_segkd, "torchvision": write_torchvision, "timm": write_timm, "hf": write_huggingface
}  # fmt: skip
KEYS = [name for name in LAYOUTS if name not in ("segkd", "huggingface")]
TARGETS = ["segkd", *KEYS, "timm", "hf", "onnx", "torch"]


def main() -> None:
    options = ask()
    refuse_wrong(options)
    if options.output:
        refuse_inside_a_run(options.output)
    delivered = find(options.source, options.network)
    if not delivered.network.gives_logits:
        raise ValueError(
            f"{options.source} has features alone and no head; its student/ is what a next stage starts from"
        )
    size = tuple(options.input_size or delivered.size)
    ending = ENDINGS.get(options.to, f".{options.to}.pth")
    path = options.output or RunFolder(options.source).exports / f"{options.network}{ending}"
    is_folder = options.to in FOLDERS
    if options.output and path.exists() and (path.is_dir() and any(path.iterdir()) or path.is_dir() != is_folder):
        wanted = "a new folder" if is_folder else "a file"
        raise ValueError(f"--output {path} is there already, as something else than this export; name {wanted}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, folder=is_folder) as partial:
        export = write(options, delivered, partial, size)
        line = cost(delivered, export, size)
        if options.to == "segkd":
            write_card(delivered, partial, options.push_to_hub or str(path), line)
    megabytes = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file()) / 1e6
    say(f"{path}: {megabytes:.1f} MB. {line}\n{export.remark}; {export.agreement}")
    if options.push_to_hub:
        say(f"uploaded to {push(path, options.push_to_hub, private=options.private)}")


def refuse_wrong(options: argparse.Namespace) -> None:
    """ValueError for options that do not go together, before anything is loaded."""
    if options.to not in TARGETS:
        raise ValueError(f"--to {options.to}: there are {', '.join(TARGETS)}")
    if options.push_to_hub and options.to != "segkd":
        raise ValueError(f"--push-to-hub uploads the folder of --to segkd, not of --to {options.to}")
    if options.private and not options.push_to_hub:
        raise ValueError("--private is for --push-to-hub")
    if options.fixed_size and options.to not in PROGRAMS:
        raise ValueError(f"--fixed-size is for --to onnx and torch: what --to {options.to} writes knows no image size")
    if options.keys_only and options.to in (*PROGRAMS, *LIBRARIES):
        raise ValueError(f"--keys-only is for another code's checkpoint, such as --to mmseg, not for --to {options.to}")
    if options.input_size and min(options.input_size) < 1:
        raise ValueError(f"--input-size {options.input_size}: height and width in pixels are at least 1")


def write(options: argparse.Namespace, delivered: Delivered, path: Path, size: tuple[int, int]) -> Export:
    """Writes one export to `path` and compares it with the network. ValueError where it cannot be, or differs."""
    if options.to in PROGRAMS:
        return PROGRAMS[options.to](delivered.network, path, size, fixed_size=options.fixed_size)
    if options.to in LIBRARIES:
        return LIBRARIES[options.to](delivered, path, size)
    return write_layout(delivered, path, size, options.to, keys_only=options.keys_only)


@torch.no_grad()
def cost(delivered: Delivered, export: Export, size: tuple[int, int]) -> str:
    """Parameters, FLOPs and the latency of what was written, for one image."""
    network, image = delivered.network, torch.zeros(1, 3, *size, dtype=torch.uint8)
    device = f"{export.engine} on cpu, {torch.get_num_threads()} threads"
    operations = flops(network, image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if export.engine == "torch" and torch.cuda.is_available():
        network.cuda()
        image, device = image.cuda(), torch.cuda.get_device_name()
    milliseconds = latency(export.scorer, image)
    network.cpu()
    return (
        f"{parameters / 1e6:.2f} M parameters, {operations / 1e9:.2f} GFLOP (1 multiply-add = 2) and "
        f"{milliseconds:.1f} ms for one {size[0]}x{size[1]} image ({device})."
    )


if __name__ == "__main__":
    run_command(main)
