"""Ultralytics' YOLO segmentation sets: a text file of polygons for each image, and the names in data.yaml."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ._classes import Classes, choose_classes, listed
from ._files import (
    LabelledFiles,
    Share,
    drawn_split,
    excerpt,
    image_names,
    read_list,
    read_text,
    refuse_second,
    require_images,
    require_split,
    written_alike,
)
from ._palettes import bit_palette
from ._shapes import Overlap, Region, draw, polygon, stacked

LAYOUT = "<root>/data.yaml with train, val and names, images below a folder `images`, text files below one `labels`"
SPLITS = ("train", "val", "test")


class YOLO(LabelledFiles):
    """Images and label maps drawn of "class x y x y ..." lines, where x and y are shares of width and height.

    The label file of `.../images/a.jpg` is `.../labels/a.txt`, or lies beside it where no folder is called `images`. An
    image without one is background. A polygon may go around a hole by a bridge to it, as Ultralytics' converters write
    it. Polygons are filled as COCO's are.

    Args:
        root: the folder that holds the YAML file.
        split: train, val or test: the entry of the YAML file, a folder, a list file, or several of them.
        data: the YAML file. Its paths count from its `path`, else from where it lies; as in Ultralytics, `../` before
            one that does not exist is left out.
        classes: which classes are trained on, merged or ignored, by name: `{vehicle: [car, bus], "*": background}`.
            Pixels of none are called `background`, the first class. None: all of them.
        overlap: `area`: a polygon lies on those with more pixels; `order`: on those of earlier lines.
        val: divides the images of the entry `train`, see `folder`.

    Items: (image, target): RGB image and mode L target. Their names are paths below the folder of the split, without
    ending, folders joined by underscores.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        data: str = "data.yaml",
        classes: Classes | None = None,
        overlap: Overlap = "area",
        val: Share | None = None,
    ):
        self.overlap, path = overlap, os.path.join(root, data)
        content = _read_yaml(path)
        names = _names(content, path)
        self.class_names, ids = choose_classes(["background", *names.values()], classes)
        self.num_classes, self.palette = len(self.class_names), bit_palette(len(self.class_names))
        self.outside, self.train_ids, self.source_names = ids[0], dict(zip(names, ids[1:])), names
        images: dict[str, str] = {}
        places = _places(content, path, require_split(split, SPLITS) if val is None else "train")
        for place in places:
            # of several folders, images of one name are told apart by the folder
            before = f"{written_alike(os.path.relpath(place, root))}/" if len(places) > 1 and place.is_dir() else ""
            images |= {before + key: image for key, image in _images_of(place).items()}
        keys = list(images)
        kept = [keys[place] for place in drawn_split(keys, split, val)]
        labels, self.labels_left_out = _labels_of(images.values())
        if not any(labels.values()):
            raise FileNotFoundError(
                f"{_label_path(images[keys[0]])}: does not exist, and no other image of {split} has a label file either. "
                f"Expected layout: {LAYOUT}"
            )
        self.names = image_names(kept)
        self.files = [(images[key], labels[images[key]]) for key in kept]

    def target(self, index: int, size: tuple[int, int]) -> Image.Image:
        """The label map that the lines of an image's text file draw."""
        path, shapes = self.files[index][1], []
        lines = [] if path is None else read_text(path).splitlines()
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    shapes.append(self._shape(line, size))
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: {error}; got {excerpt(line)}") from None
        return draw(stacked(shapes, self.overlap), size, self.outside)

    def _shape(self, line: str, size: tuple[int, int]) -> tuple[int, Region]:
        """Train id and pixels of a line."""
        words = line.split()
        try:
            number, shares = int(words[0]), np.array(words[1:], np.float64)
        except ValueError:
            raise ValueError("a line is the number of a class and the numbers x, y, x, y, ... of a polygon") from None
        if number not in self.train_ids:
            known = listed(f"{key}: {name}" for key, name in self.source_names.items())
            raise ValueError(f"there is no class {number}; data.yaml names {known}")
        if len(shares) == 4:
            raise ValueError("a box (x, y, width, height) says nothing of pixels; labels for segmentation are polygons")
        if len(shares) % 2:
            raise ValueError("a polygon has as many y as x")
        if np.abs(shares).max(initial=0) > 2:
            raise ValueError("x and y are shares of the image's width and height, from 0 to 1")
        return self.train_ids[number], polygon(shares.reshape(-1, 2) * size, size)


def _read_yaml(path: str) -> dict:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file (`data` says its name). Expected layout: {LAYOUT}")
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is no YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected entries such as train, val and names")
    return content


def _names(content: dict, path: str) -> dict[int, str]:
    """Number in the text files -> name."""
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(key, int) and key >= 0 for key in names):
        raise ValueError(f"{path}: names: expected a list of names, or number: name")
    if any(isinstance(name, (list, dict, type(None))) for name in names.values()):  # a number or `no` may be a name
        raise ValueError(f"{path}: names: a class has one name, and one of these has none, or a list or mapping")
    count = content.get("nc", len(names))
    if count != len(names):
        raise ValueError(f"{path}: nc says {excerpt(str(count))} classes, and names has {len(names)}; which is right?")
    return {key: str(name) for key, name in sorted(names.items())}


def _places(content: dict, path: str, split: str) -> list[Path]:
    """The folders and list files of a split."""
    given = content.get(split)
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise ValueError(f"{path}: {split}: expected a folder or a list file, or a list of them")
    here = Path(path).parent
    above = [here / str(content.get("path") or ""), here]
    found = []
    for one in given:
        tried = [folder / written for written in (one, one.removeprefix("../")) for folder in above]
        there = next((place for place in tried if place.exists()), None)
        if there is None:
            raise FileNotFoundError(f"{path}: {split}: there is no {one}; tried {', '.join(map(str, tried[:2]))}")
        found.append(there)
    return found


def _images_of(place: Path) -> dict[str, str]:
    """Name -> path of each image below a folder, or of a list file, whose paths count from where it lies."""
    if place.is_dir():
        return require_images(place, LAYOUT)
    found = {}
    for line in read_list(place, LAYOUT):
        path = os.path.normpath(place.parent / line)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: listed in {place} but no file of this name exists")
        name = os.path.splitext(written_alike(line))[0].replace("../", "")
        refuse_second(found.setdefault(name, path), path)
    return found


def _label_path(image: str) -> str:
    # of a data set in the working directory, paths begin with images/
    before, middle, after = f"{os.sep}{image}".rpartition(f"{os.sep}images{os.sep}")
    return os.path.splitext(f"{before}{os.sep}labels{os.sep}{after}"[1:] if middle else image)[0] + ".txt"


def _labels_of(images: Iterable[str]) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Image -> its label file, None where it has none, and the label files of no image; each folder is listed once.

    Accents count as the same however they are written: a label that is not found would be an empty one.
    """
    listings: dict[str, dict[str, str]] = {}
    found: dict[str, str | None] = {}
    for image in images:
        folder, name = os.path.split(_label_path(image))
        if folder not in listings:
            present = os.listdir(folder) if os.path.isdir(folder) else []
            listings[folder] = {unicodedata.normalize("NFC", one): os.path.join(folder, one) for one in present}
        found[image] = listings[folder].get(unicodedata.normalize("NFC", name))
    present = (path for folder in listings.values() for path in folder.values() if path.endswith(".txt"))
    rest = set(present) - set(found.values())
    return found, tuple(sorted(path for path in rest if os.path.basename(path) != "classes.txt"))
