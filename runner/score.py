"""Scores a network on a split: `accelerate launch runner/score.py RECIPE [key=value ...] [--network NAME]`.

RECIPE says which data, and how scores are made (evaluate.protocol); a run folder stands for its recipe and scores what
the run delivered. `evaluate.protocol=cirkd data.val_split=test` score in another way. `--weights FILE` scores a file of
this or another code in the recipe's network, `--weights FOLDER` whatever network a student folder holds.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from segkd.runner.building.device import start_accelerator
from segkd.runner.command import run_command
from segkd.runner.console import one_line, percent
from segkd.runner.loading.data_sets import build_dataset, fixed_resize
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.metrics_file import plain
from segkd.runner.run_folder.replacing import write_text
from segkd.runner.scoring.chosen_network import Weights, find_recipe, scored_network
from segkd.runner.scoring.confusion import table
from segkd.runner.scoring.evaluation import Count, Evaluation, evaluate
from segkd.runner.scoring.metrics import boundary, calibration
from segkd.runner.scoring.pictures import confusion_picture


def main() -> None:
    options = parsed()
    files = [Path(file) for file in (options.output, options.confusion) if file]
    for file in files:
        refuse(file, options.overwrite)
    path, run = find_recipe(options.recipe)
    recipe = read(path, options.overrides, trust_checkpoint=options.trust_checkpoint)
    accelerator = start_accelerator(recipe)
    dataset = build_dataset(recipe, recipe.data.val_split)
    weights = Weights(options.weights, options.layout, options.part)
    network, origin = scored_network(options.network, recipe, dataset, run or recipe.folder, weights)
    result = evaluate(
        network.to(accelerator.device),
        dataset,
        recipe,
        accelerator,
        title=f"scoring {options.network}",
        further=counted(options, recipe, network, dataset.ignore_index),
    )
    if accelerator.is_main_process:
        print(table(result.scores, dataset.class_names))
        further = told(result, options, recipe, dataset)
        print(
            f"{options.network} of {recipe.name} from {origin}, {len(dataset)} images of "
            f"{recipe.data.val_split}, {protocol_words(recipe)}"
        )
        if options.output:
            values = {"protocol": protocol_words(recipe), **asdict(result.scores), **further}
            write_text(Path(options.output), json.dumps(plain(values), indent=2) + "\n")
        if options.confusion:
            confusion_picture(result.matrix, dataset.class_names, Path(options.confusion))
        for file in files:
            print(f"written: {file}")
    accelerator.end_training()


def parsed() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Score a network of a recipe.", allow_abbrev=False)
    parser.add_argument("recipe", help="a recipe or a run folder, such as runs/<name>")
    parser.add_argument("overrides", nargs="*", help="key=value, such as evaluate.protocol=cirkd data.val_split=test")
    parser.add_argument(
        "--network", default="student", help="a network of the recipe, or the mean of several, as in student+teacher"
    )
    parser.add_argument(
        "--weights", help="a file or a folder of weights (default: the run's student, or the recipe's weights)"
    )
    parser.add_argument("--layout", help="whose names the weights file uses (default: told by its keys)")
    parser.add_argument("--part", help="which network of a weights file that holds several, such as teacher")
    parser.add_argument(
        "--boundary",
        nargs="?",
        type=pixels,
        const=0,
        metavar="WIDTH",
        help="also boundary IoU, in bands of so many pixels (default: 2 %% of the image's diagonal)",
    )
    parser.add_argument("--calibration", action="store_true", help="also the expected calibration error")
    parser.add_argument("--confusion", metavar="PNG", help="also a picture of the confusion matrix")
    parser.add_argument("--output", metavar="JSON", help="also write the scores to this file")
    parser.add_argument("--overwrite", action="store_true", help="write over files that are there")
    parser.add_argument("--trust-checkpoint", action="store_true", help="read weights files that could start code")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_intermixed_args()


def pixels(text: str) -> int:
    """The width of a band."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"a width is a whole number of pixels, got {text!r} (a recipe goes before --boundary)"
        )
    return int(text)


def refuse(file: Path, overwrite: bool) -> None:
    """An error for a file that cannot be written or is there, before the time for the scores is spent."""
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file} cannot be written: there is no folder {file.parent}")
    if file.is_dir() or (file.exists() and not overwrite):
        raise ValueError(f"{file} is there already; name another file, or write over it with --overwrite")


def counted(options: argparse.Namespace, recipe: Recipe, network: nn.Module, ignore_index: int) -> dict[str, Count]:
    """What is counted beside the confusion matrix, in the same pass."""
    counts: dict[str, Count] = {}
    if options.boundary is not None:
        counts["boundary"] = partial(
            _boundary, classes=network.num_classes, ignore_index=ignore_index, width=options.boundary or None
        )
    if options.calibration:
        are_shares = recipe.evaluate.average == "softmax"
        counts["calibration"] = partial(_calibration, ignore_index=ignore_index, are_shares=are_shares)
    return counts


def _boundary(maps: Tensor, target: Tensor, *, classes: int, ignore_index: int, width: int | None) -> Tensor:
    return boundary.boundary_counts(maps.argmax(1), target, classes, ignore_index, width)


def _calibration(maps: Tensor, target: Tensor, *, ignore_index: int, are_shares: bool) -> Tensor:
    return calibration.calibration_counts(maps if are_shares else maps.softmax(1), target, ignore_index)


def told(
    result: Evaluation, options: argparse.Namespace, recipe: Recipe, dataset: torch.utils.data.Dataset
) -> Mapping[str, object]:
    """Prints boundary IoU and calibration where they were asked for, and gives them as the JSON file has them."""
    values: dict[str, object] = {}
    if "boundary" in result.further:
        mean, ious = boundary.boundary_iou(result.further["boundary"], recipe.evaluate.absent)
        width = f"{options.boundary} pixels wide" if options.boundary else default_width(recipe, dataset)
        print(f"\nboundary IoU {percent(mean)}, bands {width}; " + per_class(dataset.class_names, ious))
        values |= {"boundary_width": width, "boundary_miou": mean, "boundary_iou_per_class": ious}
    if "calibration" in result.further:
        bins = result.further["calibration"]
        error = calibration.calibration_error(bins)
        print(f"\n{calibration.reliability(bins)}")
        print(f"expected calibration error {percent(error)} %, {len(bins)} bins")
        values |= {"calibration_error": error, "calibration_bins": bins.tolist()}
    if values:
        print()
    return values


def default_width(recipe: Recipe, dataset: torch.utils.data.Dataset) -> str:
    """How wide the bands are by the paper's rule, said of the first image's label."""
    image, target = dataset[0]
    resize = fixed_resize(recipe, scoring=True)
    height, width = resize(image, target)[1].shape if resize else (target.height, target.width)
    band = boundary.default_width((height, width))
    return f"2 % of the image's diagonal wide ({band} pixels at {height} x {width})"


def per_class(class_names: tuple[str, ...] | list[str], shares: list[float]) -> str:
    """`sky 88.1, pole -, ...` in percent."""
    return ", ".join(f"{one_line(name)} {percent(share)}" for name, share in zip(class_names, shares))


if __name__ == "__main__":
    run_command(main)
