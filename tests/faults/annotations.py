"""Damaged annotations: COCO's and LabelMe's JSON, YOLO's text and names, CVAT's and the lists of a folder.

What is judged: the data set is refused with a sentence, or every label map that it gives has its image's size and
holds nothing but its classes and 255.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from faults.attempts import Case, Finding, attempt
from faults.recipe_changes import (
    TEXT_CHANGES,
    another_key,
    another_number,
    longer,
    missing_key,
    nearby_number,
    nested,
    other_value,
    renamed_key,
    swapped,
    value_of_another,
)
from PIL import Image

from segkd.runner.recipe import parts

WIDTH, HEIGHT, SECONDS = 48, 32, 30
RING = [2.0, 2.0, 30.0, 2.0, 30.0, 20.0, 2.0, 20.0]
SHAPES = (("polygon", [[2, 2], [30, 2], [30, 20]]), ("rectangle", [[3, 3], [9, 9]]), ("circle", [[20, 20], [25, 25]]))
CHANGES = (other_value, other_value, another_number, another_number, nearby_number, value_of_another, missing_key,
           renamed_key, swapped, nested, another_key, longer)  # fmt: skip


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many data sets, whose file of annotations has other values or keys, or other bytes."""
    for number in range(count):
        draw = random.Random(f"annotations {seed} {number}")
        yield _case(draw.choice(list(FORMATS)), draw, in_bytes=number % 4 == 0)


def _case(name: str, draw: random.Random, *, in_bytes: bool) -> Case:
    make, file = FORMATS[name]
    values, args = make()
    is_tree = not isinstance(values, str)
    changes = [draw.choice(TEXT_CHANGES if in_bytes or not is_tree else CHANGES) for _ in range(draw.choice((1, 1, 2)))]

    def run(folder: Path) -> Finding:
        lay(folder, name)
        content = values
        if is_tree and not in_bytes:
            for change in changes:
                change(content, draw)
        content = (json.dumps(content) if is_tree else content).encode()
        if in_bytes or not is_tree:
            for change in changes:
                content = change(content, draw)
        (folder / file).write_bytes(content)
        ending = attempt(folder, lambda: wrong_in(name, args), seconds=SECONDS)
        if ending.trouble or ending.code == 2:
            return ending.finding
        return Finding("nonsense", ending.told) if ending.told else Finding("fine")

    return Case(f"annotations: {name}", "; ".join(change.__name__ for change in changes), run)


def wrong_in(name: str, args: dict) -> str:
    """What is wrong with the label maps of the data set in this folder; nothing where all is right."""
    dataset = parts.build("datasets", name, parts.completed_arguments("datasets", name, args), ".", "train")
    for index in range(len(dataset)):
        image, target = dataset[index]
        ids = np.unique(np.asarray(target))
        if target.size != image.size or not all(value == 255 or value < dataset.num_classes for value in ids):
            return f"{dataset.name(index)}: {target.size} of {image.size}, ids {ids.tolist()[:20]}"
    return ""


def lay(folder: Path, name: str) -> None:
    """Two images, and what stands beside the file that is damaged."""
    for place in {"yolo": ("images",), "cvat": ("JPEGImages", "SegmentationClass")}.get(name, ("images", "labels")):
        (folder / place).mkdir()
        shape = (HEIGHT, WIDTH) if place in ("labels", "SegmentationClass") else (HEIGHT, WIDTH, 3)
        for number in range(2):
            Image.fromarray(np.zeros(shape, np.uint8)).save(folder / place / f"{number}.png")
    for extra in ("labels", "ImageSets/Segmentation"):
        (folder / extra).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets/Segmentation/train.txt").write_text("0\n1\n")
    (folder / "data.yaml").write_text("train: images\nnames: [a, b]\n")
    for number in range(2):
        (folder / f"labels/{number}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")


def coco() -> tuple[dict, dict]:
    images = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(2)]
    crowd = {"counts": [100, 36, WIDTH * HEIGHT - 136], "size": [HEIGHT, WIDTH]}
    notes = [
        {"id": 1, "image_id": 0, "category_id": 3, "segmentation": [RING], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 7, "segmentation": crowd, "iscrowd": 1},
    ]
    categories = [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}]
    return {"images": images, "categories": categories, "annotations": notes}, COCO_ARGS


def labelme() -> tuple[dict, dict]:
    shapes = [{"label": "a", "points": points, "shape_type": kind} for kind, points in SHAPES]
    about = {"imagePath": "0.png", "imageWidth": WIDTH, "imageHeight": HEIGHT, "imageData": None}
    return {"shapes": shapes, **about}, {"labels": "images", "label_names": ["a", "b"]}


COCO_ARGS = {"annotations": "coco.json", "images": "images"}
YOLO_ARGS = {"data": "data.yaml"}
FORMATS: dict[str, tuple[Callable[[], tuple[object, dict]], str]] = {
    "coco": (coco, "coco.json"),
    "labelme": (labelme, "images/0.json"),
    "yolo": (lambda: ("0 0.1 0.1 0.9 0.1 0.9 0.9\n1 0.5 0.5 0.9 0.5 0.9 0.9\n", YOLO_ARGS), "labels/0.txt"),
    "cvat": (lambda: ("background:0,0,0::\nx:255,0,0::\n", {}), "labelmap.txt"),
}
