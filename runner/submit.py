"""Makes the files a test server scores: `python runner/submit.py cityscapes runs/<name> --root DATA --to FOLDER`.

The scores are made as the run's recipe says under `evaluate`; evaluate.mode=slide evaluate.flip=true and so on change
that. Every file is read back and checked before the archive is packed. A call that was stopped goes on where it was.
runner/predicting/servers.py has the formats.
"""

import argparse
from pathlib import Path

from segkd.runner.command import ask_early, new_parser, run_command


def ask() -> argparse.Namespace:
    """The options."""
    parser = new_parser("Make the files of a test server.")
    parser.add_argument("server", choices=("cityscapes", "voc", "ade20k"), help="whose test server")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("overrides", nargs="*", help="key=value, such as evaluate.flip=true")
    parser.add_argument("--root", help="folder the data set lies in (default: the recipe's)")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="folder for the files and the archive")
    parser.add_argument("--split", default="test", help="which images (default: test)")
    parser.add_argument(
        "--competition", choices=("comp5", "comp6"), default="comp6",
        help="voc: comp5 if nothing but VOC's data was trained on, not even ImageNet's (default: comp6)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="start again if FOLDER holds other labels")
    return parser.parse_intermixed_args()


ask = ask_early(ask, __name__)  # before the imports that take seconds

import functools
import json
import shutil
from collections.abc import Callable

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from segkd.runner.building.device import find_device
from segkd.runner.console import progress_bar, say
from segkd.runner.loading.data_sets import fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.predicting.label_files import check_label_file, label_image, pack, save_png
from segkd.runner.predicting.servers import SERVERS, Server
from segkd.runner.recipe import parts
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.student_folder import StudentFolder
from segkd.runner.recipe.text_file import read_json
from segkd.runner.run_folder.checksum import checksum
from segkd.runner.run_folder.folder import RunFolder, refuse_inside_a_run
from segkd.runner.run_folder.pretrained import find_student, from_pretrained
from segkd.runner.run_folder.replacing import write_text
from segkd.runner.scoring.evaluation import label_map

CHANGEABLE = ("evaluate.", "data.resize", "data.workers", "data.max_pixels")


def main() -> None:
    options = ask()
    refuse_inside_a_run(options.to)
    recipe, student = read_run(options.run, options.overrides), find_student(options.run)
    dataset = test_images(options, recipe, student.read_config().get("class_names") or ["unnamed"])
    server, labels = SERVERS[options.server], options.to / "labels"
    files = [
        labels / server.path(dataset.name(index), options.split, options.competition) for index in range(len(dataset))
    ]
    begin(options.to, fingerprint(options, recipe, student), overwrite=options.overwrite)
    archive = options.to / server.archive
    archive.unlink(missing_ok=True)  # one that is there has passed all checks
    sizes = write_labels(student.path, dataset, files, recipe, server)
    others = sorted({file for file in labels.rglob("*") if file.is_file()} - {*files})
    if others:
        raise ValueError(f"{others[0]} belongs to no image of the split ({len(others)} such files); move it away")
    pack(labels, archive)
    megabytes = archive.stat().st_size / 1e6
    say(f"{archive}: {len(files)} label files, each checked, {megabytes:.1f} MB; {protocol_words(recipe)}")
    expected = server.images.get(options.split, len(files))
    if len(files) != expected:
        say(f"the {options.split} split has {expected} images and {len(files)} are here: the server will not take it")
    if server.size and sizes != {server.size}:
        say(f"not all images are {server.size[0]}x{server.size[1]} (height x width): the server will not take it")


def read_run(run: Path, overrides: list[str]) -> Recipe:
    """The recipe of a run, with other settings for scoring.

    Raises:
        FileNotFoundError: not a run folder. ValueError: a setting that does not change how scores are made.
    """
    for assignment in overrides:
        if not assignment.startswith(CHANGEABLE):
            raise ValueError(f"{assignment}: a trained network's scores depend on {', '.join(CHANGEABLE)} alone")
    if not RunFolder(run).is_begun:
        raise FileNotFoundError(
            f"there is no {RunFolder(run).recipe_file}; submit.py needs a run folder, whose recipe says how the "
            f"network is scored (predict.py writes labels with a student folder alone)"
        )
    return read(RunFolder(run).recipe_file, overrides, resolved=True)


def test_images(options: argparse.Namespace, recipe: Recipe, class_names: list[str]) -> Dataset:
    """The split of the server's data set. ValueError where the network has other classes."""
    root = options.root
    if root is None:
        if recipe.data.dataset != options.server:
            raise ValueError(
                f"{options.run} was trained on {recipe.data.dataset}; say where {options.server} lies with --root"
            )
        root = recipe.data.root
    arguments = recipe.data.args if recipe.data.dataset == options.server and options.split != "test" else {}
    dataset = parts.build("datasets", options.server, arguments, root, options.split)
    dataset.max_pixels = recipe.data.max_pixels
    if list(class_names) != list(dataset.class_names):
        raise ValueError(
            f"{options.run} has other classes than {options.server}, or in another order: "
            f"{', '.join(class_names[:5])}, ... and not {', '.join(dataset.class_names[:5])}, ..."
        )
    return dataset


def fingerprint(options: argparse.Namespace, recipe: Recipe, student: StudentFolder) -> dict:
    """What the label files depend on besides the images."""
    return {
        "network": checksum(student.config_file, student.weights_file),
        "server": options.server,
        "split": options.split,
        "competition": options.competition,
        "evaluate": recipe.evaluate.model_dump(
            mode="json", exclude={"every", "also", "absent", "metrics", "batch_size"}
        ),
        "resize": recipe.data.resize and list(recipe.data.resize),
        "crop_size": list(recipe.data.crop_size),
    }


def begin(folder: Path, wanted: dict, *, overwrite: bool) -> None:
    """Makes the folder, or goes on with one begun in the same way. ValueError if it holds anything else."""
    labels, file = folder / "labels", folder / "fingerprint.json"
    if labels.exists() and not file.is_file():
        raise ValueError(f"{labels} is there and was not written by submit.py; name another folder with --to")
    if labels.exists() and read_json(file) != wanted:
        if not overwrite:
            raise ValueError(
                f"{folder} holds labels of another network, split or way of scoring; name another folder with --to, "
                f"or replace them with --overwrite"
            )
        shutil.rmtree(labels)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(wanted, indent=2) + "\n")
    labels.mkdir(exist_ok=True)


def write_labels(
    folder: Path, dataset: Dataset, files: list[Path], recipe: Recipe, server: Server
) -> set[tuple[int, int]]:
    """Predicts the images whose files are not there yet, and reads every file back.

    Returns:
        The sizes of the images, height and width.

    Raises:
        ValueError: a file is not as it must be.
    """
    there = sum(file.exists() for file in files)
    if there:
        say(f"{there} of {len(files)} label files are there already")
    device = find_device()
    network = from_pretrained(folder).to(device) if there < len(files) else None
    ids, sizes = np.array(server.ids, dtype=np.uint8), set()
    images = evaluation_batches(
        dataset,
        workers=recipe.data.workers,
        resize=functools.partial(image_alone, resize=fixed_resize(recipe, scoring=True)),
        pin_memory=device.type == "cuda",
    )
    for file, image in zip(files, progress_bar(images, total=len(files), title="predicting", unit="images")):
        if not file.exists():
            classes = label_map(network, image.to(device), recipe)[0].cpu().numpy()
            save_png(label_image(ids[classes], server.palette), file)
        size = tuple(image.target.shape[-2:])
        check_label_file(file, size, server.ids, server.palette)
        sizes.add(size)
    return sizes


def image_alone(
    image: Image.Image, target: Image.Image, resize: Callable | None
) -> tuple[Image.Image | np.ndarray, Image.Image]:
    """The image at the size it is scored at, beside a target that keeps its own: the size the server wants."""
    return (image if resize is None else resize(image, target)[0]), target


if __name__ == "__main__":
    run_command(main)
