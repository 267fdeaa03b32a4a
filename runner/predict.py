"""Predicts the classes of images: `python runner/predict.py NETWORK INPUT [INPUT ...] --to FOLDER`.

NETWORK is a run folder, a student folder, a Hub id or an exported file (.onnx, .pt2); INPUT an image, a folder, a
quoted pattern, an animation or a video, whose frames are predicted. FOLDER gets labels/x.png (class ids, 8-bit grey),
colored/x.png (the same with the data set's palette), overlays/x.png (image and colours blended) and legend.png; the
folders of the inputs are kept.

With --pseudo it gets labels to train others on (data.extra of a recipe): 255, which is ignored, where the network is
not sure, and description.json, which says whose they are. An image whose files are there already is left out, so that
after a kill the same command goes on.
"""

import argparse
import math
from pathlib import Path
from typing import TypeVar

from segkd.runner.command import ask_early, new_parser, run_command
from segkd.runner.recipe.ranges import SCALES, are_within

KINDS = ("labels", "colored", "overlays")
T = TypeVar("T")


def ask() -> argparse.Namespace:
    """The options, as far as they can be checked without looking at anything."""
    parser = new_parser("Predict the classes of images.")
    parser.add_argument(
        "network", help="a run folder, a student folder, a Hub id user/name or an exported file (.onnx, .pt2)"
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="an image, a folder, a quoted pattern or a video")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="folder for what is written")
    parser.add_argument(
        "--write", nargs="+", choices=KINDS, help="what is written (default: all; with --pseudo: labels)"
    )
    parser.add_argument("--pseudo", action="store_true", help="ignore (255) pixels that the network is not sure of")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument(
        "--confidence", type=float, metavar="P", help="--pseudo: lowest probability that is kept (default: 0.9)"
    )
    kept.add_argument(
        "--share",
        type=float,
        metavar="S",
        help="--pseudo: keep this share of the pixels of each class, the surest first; all images are predicted twice",
    )
    parser.add_argument("--alpha", type=float, default=0.5, help="share of the colours in an overlay (0.5)")
    parser.add_argument("--batch-size", type=int, default=1, help="images of one size computed at a time (1)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--resize", type=int, nargs=2, metavar=("H", "W"), help="size the network sees images at (default: as trained)"
    )
    size.add_argument("--native", action="store_true", help="it sees them at their own size, however it was trained")
    parser.add_argument("--mode", choices=("whole", "slide"), default="whole", help="whole images, or sliding windows")
    parser.add_argument("--window", type=int, nargs=2, metavar=("H", "W"), help="slide: height and width in pixels")
    parser.add_argument("--stride", type=int, nargs=2, metavar=("H", "W"), help="slide: default 2/3 of the window")
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], help="image sizes the scores are averaged over"
    )
    parser.add_argument("--flip", action="store_true", help="also average with the mirrored image")
    parser.add_argument(
        "--max-pixels", type=int, default=180_000_000, metavar="N", help="largest image read, H x W (180 million)"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: on a GPU")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in FOLDER already")
    options = parser.parse_args()
    options.write = options.write or (["labels"] if options.pseudo else list(KINDS))
    refuse_wrong(options)
    return options


def refuse_wrong(options: argparse.Namespace) -> None:
    """ValueError for values out of range and options that do not go together, before anything is loaded."""
    if not 0 <= options.alpha <= 1:
        raise ValueError(f"--alpha {options.alpha}: the share of the colours is between 0 and 1")
    for option, value in (("--confidence", options.confidence), ("--share", options.share)):
        if value is not None and not options.pseudo:
            raise ValueError(f"{option} says which pseudo-labels are kept; give --pseudo, too")
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"{option} {value}: must be above 0 and at most 1")
    if options.pseudo and (options.overwrite or "labels" not in options.write):
        raise ValueError("--pseudo writes labels and keeps those that are there; leave --overwrite out, or labels in")
    if options.max_pixels < 1:
        raise ValueError(f"--max-pixels {options.max_pixels}: images have at least one")
    if options.batch_size < 1:
        raise ValueError(f"--batch-size {options.batch_size}: at least one image")
    if not are_within(options.scales, SCALES):
        words = " ".join(map(str, options.scales))
        raise ValueError(f"--scales {words}: factors on the image size are from {SCALES.ge} to {SCALES.le}")
    if (options.mode == "slide") != (options.window is not None) or (options.stride and not options.window):
        raise ValueError("--mode slide needs --window H W (and may have --stride H W); whole images have neither")
    if options.stride and any(not 1 <= step <= side for step, side in zip(options.stride, options.window)):
        stride, window = (" ".join(map(str, size)) for size in (options.stride, options.window))
        raise ValueError(f"--stride {stride}: is from 1 to the window's size, {window}, or it leaves gaps")
    for option, size in (("--resize", options.resize), ("--window", options.window)):
        if size and (min(size) < 1 or math.prod(size) > options.max_pixels):
            raise ValueError(
                f"{option} {size}: height and width are at least 1, and at most {options.max_pixels} pixels"
            )
    if options.to.exists() and not options.to.is_dir():
        raise ValueError(f"--to {options.to} is a file; name a folder")


ask = ask_early(ask, __name__)  # before the imports that take seconds

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segkd.datasets._files import IGNORE_INDEX
from segkd.datasets._images import open_image
from segkd.datasets._palettes import bit_palette
from segkd.datasets._resample import resize_image
from segkd.runner.building.device import find_device
from segkd.runner.console import message, progress_bar, say
from segkd.runner.predicting.confident import STEPS, Rule, count_steps, lowest_steps
from segkd.runner.predicting.image_files import (
    LONGEST_REASON,
    ImageFile,
    Picture,
    Unreadable,
    batches,
    decode,
    find_images,
    map_ahead,
)
from segkd.runner.predicting.label_files import Palette, label_image, save_png
from segkd.runner.predicting.label_folder import LabelFolder
from segkd.runner.recipe.extra import CONFIDENCE
from segkd.runner.recipe.memory import is_of_memory
from segkd.runner.recipe.parts import BARE
from segkd.runner.recipe.program_file import ProgramFile
from segkd.runner.recipe.student_folder import StudentFolder
from segkd.runner.recipe.text_file import read_json
from segkd.runner.run_folder.checksum import checksum
from segkd.runner.run_folder.folder import refuse_inside_a_run
from segkd.runner.run_folder.pretrained import find_student, from_pretrained
from segkd.runner.run_folder.replacing import write_text
from segkd.runner.scoring.inference import predict
from segkd.runner.scoring.pictures import legend
from segkd.runner.scoring.program import load_program

THREADS = 4  # that decode, and as many that write
SHOWN = 10  # of the files that could not be predicted


def main() -> None:
    options = ask()
    refuse_inside_a_run(options.to)
    device = find_device()
    if options.precision == "bf16" and device.type != "cuda":
        raise ValueError(f"--precision bf16 is for GPUs, and this computes on {device.type}; leave it out")
    files = find_images(options.inputs, leave_out=options.to)
    program = load_program(options.network) if ProgramFile.named(options.network) else None
    if program is not None and options.pseudo:
        raise ValueError(
            f"--pseudo labels are a teacher's: name its folder, not what it was exported to, {options.network}"
        )
    student = find_student(options.network) if program is None else None
    config = student.read_config() if program is None else program.about | {"num_classes": program.num_classes}
    if config.get("model") == BARE:
        raise ValueError(f"{options.network} has features alone and no head, so it predicts no classes")
    if config["num_classes"] > (IGNORE_INDEX if options.pseudo else 256):
        raise ValueError(f"{options.network}: {config['num_classes']} classes do not fit into 8-bit files")
    palette = config.get("palette") or bit_palette(config["num_classes"])
    picture = legend(config.get("class_names") or [str(index) for index in range(config["num_classes"])], palette)
    # a network trained on images of a third of their size knows streets a third as wide
    only = program.signature.size if program else None
    options.resize = None if options.native else options.resize or only or config.get("resize")
    refuse_idle_window(options.window, options.resize)
    folder = pseudo_folder(student, files, options) if options.pseudo else None
    if folder is None and not options.overwrite:
        refuse_existing(files, picture, options)
    network = (program or from_pretrained(student.path)).to(device)
    sure = None
    if folder is not None:
        folder.describe()
        sure = Rule(options.confidence, options.share), lowest_kept(network, files, folder, options, device)
        files = [
            file for file in files if not all(kind_file(kind, file.name, options).is_file() for kind in options.write)
        ]
    count, seconds, failed = predict_all(network, files, palette, options, device, sure)
    if options.write != ["labels"]:
        save_png(picture, options.to / "legend.png")
    say(
        f"{options.to}: {', '.join(options.write)} of {count} images in {seconds:.1f} s, {count / seconds:.1f} images/s"
    )
    if failed:
        lines = [f"  {item.path}: {item.reason}" for item in failed[:SHOWN]]
        lines += [f"  and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
        text = "\n".join([f"segkd: {len(failed)} files could not be predicted:", *lines])
        print(message(text), file=sys.stderr)
        sys.exit(1)


def pseudo_folder(student: StudentFolder, files: list[ImageFile], options: argparse.Namespace) -> LabelFolder:
    """The folder of the labels that are asked for. ValueError: it holds other ones.

    With a share, what is kept of an image depends on all of them, so that they are part of what the labels are.
    """
    if options.share is None:
        options.confidence = options.confidence or CONFIDENCE
    # a link to nowhere cannot be predicted either, which is told with the others
    stamps = [
        (file.name, status.st_size, status.st_mtime_ns)
        for file in files
        if file.path.exists() and (status := file.path.stat())
    ]
    seen = ("resize", "mode", "window", "stride", "scales", "flip", "precision")
    description = {
        "format": 1,
        "teacher": {**student.read_config(), "weights": checksum(student.weights_file)},
        "images": None if options.share is None else hashlib.sha256(json.dumps(stamps).encode()).hexdigest(),
        "seen": {name: getattr(options, name) for name in seen},
        "kept": Rule(options.confidence, options.share).described,
    }
    return LabelFolder(options.to, json.loads(json.dumps(description)), "--to")


def lowest_kept(
    network: nn.Module, files: list[ImageFile], folder: LabelFolder, options: argparse.Namespace, device: torch.device
) -> Tensor | None:
    """(K,) lowest steps of sureness that a share of each class's pixels keeps; None with a confidence."""
    if options.share is None:
        return None
    if not folder.lowest_file.is_file():
        counts = torch.zeros(network.num_classes, STEPS, dtype=torch.int64)
        pictures = (item for item in decode(files, THREADS, options.max_pixels) if isinstance(item, Picture))

        def count(batch: list[Picture]) -> Tensor:
            return count_steps(class_scores(network, batch, options, device)).cpu()

        # those that cannot be predicted are told when the labels are made
        counted = computed(count, pictures, options.batch_size, lambda item: None)
        for _, some in progress_bar(counted, total=None, title="how sure it is", unit="batches"):
            counts += some
        write_text(folder.lowest_file, json.dumps({"lowest": lowest_steps(counts, options.share).tolist()}) + "\n")
    return torch.tensor(read_json(folder.lowest_file, {"lowest": list})["lowest"])


def refuse_idle_window(window: Sequence[int] | None, resize: Sequence[int] | None) -> None:
    """ValueError where sliding windows hold whole images, of the size that these are brought to."""
    if window and resize and all(side <= larger for side, larger in zip(resize, window)):
        raise ValueError(
            f"images are brought to {resize[0]} {resize[1]}, as in training, and a window of {window[0]} {window[1]} holds "
            f"them whole; say native (--native) to slide over them at their own size, or take smaller windows"
        )


def refuse_existing(files: list[ImageFile], picture: Image.Image, options: argparse.Namespace) -> None:
    """ValueError if something that would be written is there, or if the folder's legend is another network's."""
    names = [name for file in files for name in (f"{file.name}.png", f"{file.name}/000000.png")]
    there = [path for kind in options.write for name in names if (path := options.to / kind / name).exists()]
    if there:
        raise ValueError(
            f"{there[0]} is there already ({len(there)} such files); name another folder with --to, or replace them "
            f"with --overwrite"
        )
    known = options.to / "legend.png"
    if known.exists():
        with open_image(known) as other:
            if other.size != picture.size or other.convert("RGB").tobytes() != picture.tobytes():
                raise ValueError(
                    f"{known}: {options.to} holds another network's classes; name another folder with --to"
                )


def predict_all(
    network: nn.Module,
    files: list[ImageFile],
    palette: Palette,
    options: argparse.Namespace,
    device: torch.device,
    sure: tuple[Rule, Tensor | None] | None,
) -> tuple[int, float, list[Unreadable]]:
    """Predicts and writes everything.

    Args:
        sure: which pixels are kept, and the lowest steps that are; None: all.

    Returns:
        How many images were predicted, the seconds it took, and the files that could not be.
    """
    failed: list[Unreadable] = []
    names: set[str] = set()
    paths = {file.name: file.path for file in files}  # a frame's is its name

    def fail(item: Unreadable) -> None:
        item = Unreadable(paths.get(str(item.path), item.path), item.reason)
        failed.append(item)
        say(f"{item.path}: cannot be predicted, {item.reason}")

    def readable() -> Iterator[Picture]:
        for item in decode(files, THREADS, options.max_pixels):
            if isinstance(item, Picture) and item.name in names:
                item = Unreadable(Path(item.name), "a frame and an image of one name; predict them into two folders")
            if isinstance(item, Picture):
                names.add(item.name)
                yield item
            else:
                fail(item)

    def labels_of(batch: list[Picture]) -> np.ndarray:
        if sure is None:
            labels = class_scores(network, batch, options, device, classes=True).to(torch.uint8)
        else:
            labels = sure[0].labels(class_scores(network, batch, options, device), sure[1])
        return labels.cpu().numpy()

    def predictions() -> Iterator[tuple[Picture, np.ndarray]]:
        for batch, labels in computed(labels_of, readable(), options.batch_size, fail):
            yield from zip(batch, labels)

    count, since = 0, time.perf_counter()
    total = None if any(file.is_video for file in files) else len(files)
    bar = progress_bar(total=total, title="predicting", unit="images")
    with bar, ThreadPoolExecutor(THREADS) as writers:
        for _ in map_ahead(writers, lambda pair: write(*pair, palette, options), predictions(), 4 * THREADS):
            bar.update()
            count += 1
    return count, time.perf_counter() - since, failed


def computed(
    compute: Callable[[list[Picture]], T],
    pictures: Iterable[Picture],
    batch_size: int,
    fail: Callable[[Unreadable], None],
) -> Iterator[tuple[list[Picture], T]]:
    """(pictures of one size, what is computed of them); `fail` is given those that the network cannot compute."""
    for batch in batches(pictures, batch_size):
        try:
            found = compute(batch)
        except Exception as error:  # networks of others refuse an image in any way
            # these are of the machine, and the next image would meet them, too
            if is_of_memory(error) or isinstance(error, torch.AcceleratorError):
                raise
            if len(batch) > 1:
                yield from computed(compute, batch, 1, fail)
                continue
            height, width = batch[0].pixels.shape[:2]
            reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
            fail(Unreadable(Path(batch[0].name), f"the network fails at its {height}x{width} pixels: {reason}"))
        else:
            yield batch, found


def class_scores(
    network: nn.Module,
    batch: list[Picture],
    options: argparse.Namespace,
    device: torch.device,
    classes: bool = False,
) -> Tensor:
    """(B, K, H, W) scores of pictures of one size, at that size; with `classes` (B, H, W), the classes alone."""
    pixels = [picture.pixels for picture in batch]
    if options.resize:
        pixels = [resize_image(Image.fromarray(one), tuple(options.resize)) for one in pixels]
    # (B, H, W, 3) -> (B, 3, H, W): a view in channels_last order, nothing is copied
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        return predict(
            network,
            images,
            batch[0].pixels.shape[:2],
            mode=options.mode,
            window=options.window and tuple(options.window),
            stride=options.stride and tuple(options.stride),
            scales=tuple(options.scales),
            flip=options.flip,
            classes=classes,
        )


def write(picture: Picture, labels: np.ndarray, palette: Palette, options: argparse.Namespace) -> None:
    """The files of one picture."""
    colored = label_image(labels, palette)
    made = {"labels": lambda: label_image(labels), "colored": lambda: colored}
    made["overlays"] = lambda: Image.blend(Image.fromarray(picture.pixels), colored.convert("RGB"), options.alpha)
    for kind in options.write:
        # photographs: more effort takes ten times as long for a tenth of the bytes
        save_png(made[kind](), kind_file(kind, picture.name, options), compress_level=1 if kind == "overlays" else 6)


def kind_file(kind: str, name: str, options: argparse.Namespace) -> Path:
    """Where one of KINDS of a picture goes."""
    return options.to / kind / f"{name}.png"


if __name__ == "__main__":
    run_command(main)
