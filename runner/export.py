"""Turns what a run has delivered into files that others load: `python runner/export.py runs/<name> --to onnx`.

segkd: config.json, model.safetensors, recipe.yaml and a card, for from_pretrained. mmseg (or cirkd, aicsd, ...): a
checkpoint with that code's keys. torchvision, timm (the backbone alone), hf: what these libraries load. onnx, torch:
one file that needs no code of ours, with a page beside it for whoever puts it on a device. Each export is compared with
the network it comes from, at two sizes, and leaves no file if it differs. onnx --int8: in 8 bits, scored beside the
float file, with what would cost more than --max-loss left in float.
"""

import argparse
from pathlib import Path

from segkd.runner.command import ask_early, new_parser, run_command
from segkd.runner.recipe.ranges import SIDES, are_within

CALIBRATIONS = ("minmax", "entropy", "percentile")


def ask(words: list[str] | None = None) -> argparse.Namespace:
    """The options, of the command line or of words in its place."""
    parser = new_parser("Export a delivered network.")
    parser.add_argument("source", help="a run folder, or a student folder")
    parser.add_argument(
        "--to", required=True, metavar="TARGET", help="segkd, a code such as mmseg or cirkd, timm, hf, onnx or torch"
    )
    parser.add_argument("--output", type=Path, help="file or folder to write (default: in the source's folder export/)")
    parser.add_argument("--overwrite", action="store_true", help="write over a file that is there")
    parser.add_argument("--network", default="student", help="which network of the run (default: student)")
    parser.add_argument(
        "--input-size", type=int, nargs=2, metavar=("H", "W"), help="size it is traced, compared and timed at "
        "(default: onnx and torch: what images are resized to; else the crop size it was trained on)"
    )  # fmt: skip
    parser.add_argument("--fixed-size", action="store_true", help="onnx and torch: take images of this size only")
    parser.add_argument(
        "--keys-only", action="store_true", help="mmseg, cirkd, ...: even where that code's network differs"
    )
    parser.add_argument("--push-to-hub", metavar="USER/REPO", help="segkd: upload the folder to the Hugging Face Hub")
    parser.add_argument("--private", action="store_true", help="a repository that --push-to-hub makes is private")
    int8 = parser.add_argument_group("--to onnx --int8")
    int8.add_argument("--int8", action="store_true", help="weights and activations in 8 bits")
    int8.add_argument("--calibration-images", type=int, metavar="N", help="of training (default: 100)")
    int8.add_argument("--calibration", choices=CALIBRATIONS, help="of activations (default: minmax)")
    int8.add_argument("--symmetric", action="store_true", help="activations around zero, as TensorRT needs them")
    int8.add_argument("--max-loss", type=float, metavar="POINTS", help="of mIoU below the float file's (default: 1.0)")
    int8.add_argument(
        "--qat", type=int, metavar="ITERATIONS", help="train it in INT8 first, as a run of its own, by its own recipe"
    )
    int8.add_argument("--val-images", type=int, metavar="N", help="that is measured on (default: all)")
    return parser.parse_args(words)


ask = ask_early(ask, __name__)  # before the imports that take seconds

import torch

from segkd.models._checkpoints import LAYOUTS
from segkd.models._int8 import Range, in_float
from segkd.runner.building.delivered import Delivered, find
from segkd.runner.console import say
from segkd.runner.exporting.agreement import Export
from segkd.runner.exporting.device_report import write_report
from segkd.runner.exporting.hub import push, write_card
from segkd.runner.exporting.int8 import Wish, train_in_int8, write_int8
from segkd.runner.exporting.other_codes import (
    write_huggingface,
    write_layout,
    write_segkd,
    write_timm,
    write_torchvision,
)
from segkd.runner.exporting.programs import told_of, write_onnx, write_program
from segkd.runner.recipe.program_file import ProgramFile
from segkd.runner.run_folder.folder import RunFolder, refuse_inside_a_run
from segkd.runner.run_folder.opening import device_words
from segkd.runner.run_folder.program_scores import remove_scores, write_scores
from segkd.runner.run_folder.replacing import refuse_existing, replacing
from segkd.runner.scoring.cost import TIMED, Timing, flops, in_turn, parameters
from segkd.runner.scoring.program import scores_of_file

# what an INT8 file is asked to be (exporting/int8.py: Wish)
OF_INT8 = {
    "calibration_images": "images", "calibration": "calibration", "symmetric": "symmetric", "max_loss": "max_loss",
    "val_images": "val_images",
}  # fmt: skip
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
    export_network(ask())


def export_network(options: argparse.Namespace) -> Path:
    """Writes one export, says what it weighs and costs, and gives its path."""
    refuse_wrong(options)
    if options.output:
        refuse_inside_a_run(options.output)
        if options.output.is_file():  # a folder that is not empty is refused below
            refuse_existing(options.output, options.overwrite)
    delivered = find(options.source, options.network)
    if not delivered.network.gives_logits:
        raise ValueError(
            f"{options.source} has features alone and no head; its student/ is what a next stage starts from"
        )
    before, learned = None, {}
    if options.qat is not None:
        if delivered.run is None:
            raise ValueError("--qat goes on with a training; give the run folder")
        before, delivered = delivered, find(str(train_in_int8(delivered.run, options.qat)))
    if options.to != "segkd":
        learned = in_float(delivered.network)
    seen = delivered.config.get("resize") if options.to in PROGRAMS else None  # what a device will see, too
    size = tuple(options.input_size or seen or delivered.size)
    ending = "-int8.onnx" if options.qat is None else "-int8-qat.onnx"
    ending = ending if options.int8 else ENDINGS.get(options.to, f".{options.to}.pth")
    path = options.output or RunFolder(options.source).exports / f"{options.network}{ending}"
    is_folder = options.to in FOLDERS
    if options.output and path.exists() and (path.is_dir() and any(path.iterdir()) or path.is_dir() != is_folder):
        wanted = "a new folder" if is_folder else "a file"
        raise ValueError(f"--output {path} is there already, as something else than this export; name {wanted}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, folder=is_folder) as partial:
        export = write(options, delivered, partial, size, learned=learned, beside=before)
        timings, costs = cost(delivered, export, size)
        if options.to == "segkd":
            write_card(delivered, partial, options.push_to_hub or str(path), costs)
    megabytes = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file()) / 1e6
    say(f"{path}: {megabytes:.1f} MB. {costs}\n{export.remark}; {export.loss or export.agreement}")
    if options.to in PROGRAMS:
        file = ProgramFile(path)
        remove_scores(file)
        if export.loss is not None and options.val_images is None:
            recipe = delivered.run.read_recipe()
            write_scores(file, scores_of_file(export.loss.int8, recipe), export.loss.int8.arrays())
        fixed = export.is_fixed or seen is not None
        write_report(file, delivered, export, size, timings, costs, fixed=fixed)
        say(f"{file.report_file}: what it is, what it costs and how it is run")
    if options.push_to_hub:
        say(f"uploaded to {push(path, options.push_to_hub, private=options.private)}")
    return path


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
    if options.input_size and not are_within(options.input_size, SIDES):
        raise ValueError(
            f"--input-size {options.input_size}: height and width in pixels are from {SIDES.ge} to {SIDES.le}"
        )
    if options.output and options.to in PROGRAMS and options.output.suffix != ENDINGS[options.to]:
        raise ValueError(f"--output {options.output}: a file of --to {options.to} ends in {ENDINGS[options.to]}")
    if options.qat is not None and (not options.int8 or options.network != "student" or options.qat < 1):
        raise ValueError("--qat ITERATIONS is for --int8 and the student, with at least one iteration")
    if options.int8 and options.to != "onnx":
        raise ValueError(f"--int8 is for --to onnx, not for --to {options.to}")
    given = [word for word in OF_INT8 if getattr(options, word) is not None and getattr(options, word) is not False]
    if given and not options.int8:
        raise ValueError(f"--{given[0].replace('_', '-')} is for --int8")
    counts = [count for count in (options.calibration_images, options.val_images) if count is not None]
    if min(counts, default=1) < 1 or not (options.max_loss is None or options.max_loss >= 0):
        raise ValueError("--calibration-images and --val-images are at least 1, and --max-loss is not below 0")


def write(
    options: argparse.Namespace,
    delivered: Delivered,
    path: Path,
    size: tuple[int, int],
    *,
    learned: dict[str, Range],
    beside: Delivered | None,
) -> Export:
    """Writes one export to `path` and compares it with the network. ValueError where it cannot be, or differs.

    Args:
        learned, beside: of one that was trained in INT8, see write_int8.
    """
    if options.int8:
        given = {field: getattr(options, word) for word, field in OF_INT8.items()}
        wish = Wish(**{field: value for field, value in given.items() if value is not None})
        return write_int8(delivered, path, size, wish, fixed_size=options.fixed_size, learned=learned, beside=beside)
    if options.to in PROGRAMS:
        about = told_of(delivered)
        return PROGRAMS[options.to](delivered.network, path, size, fixed_size=options.fixed_size, about=about)
    if options.to in LIBRARIES:
        return LIBRARIES[options.to](delivered, path, size)
    return write_layout(delivered, path, size, options.to, keys_only=options.keys_only)


def cost(delivered: Delivered, export: Export, size: tuple[int, int]) -> tuple[dict[str, Timing], str]:
    """Times of what was written, an INT8 file's beside the float file's; and parameters, FLOPs and time in words."""
    network, image = delivered.network, torch.zeros(1, 3, *size, dtype=torch.uint8)
    device = f"{export.engine} on {device_words(torch.device('cpu'))}"
    operations = flops(network, image)
    if export.engine == "torch" and torch.cuda.is_available():
        network.cuda()
        image, device = image.cuda(), torch.cuda.get_device_name()
    scorers = {"float32": export.scorer}
    if export.loss is not None:
        scorers = {"float32": export.loss.float32_scorer, "int8": export.scorer}
    times = dict(zip(scorers, in_turn([*scorers.values()], image, TIMED)))
    network.cpu()
    timings = {name: Timing.of(taken) for name, taken in times.items()}
    *beside, (_, timing) = timings.items()
    also = "".join(f", {other.median:.1f} ms in {name}" for name, other in beside)
    return timings, (
        f"{parameters(network) / 1e6:.2f} M parameters, {operations / 1e9:.2f} GFLOP (1 multiply-add = 2) and "
        f"{timing.median:.1f} ms{also} for one {size[0]}x{size[1]} image ({device})."
    )


if __name__ == "__main__":
    run_command(main)
