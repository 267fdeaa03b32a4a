"""LabelMe's files: one JSON of shapes for each image."""

import base64
import binascii
import os
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Len
from PIL import Image

from ._classes import Classes, choose_classes, listed
from ._files import (
    LabelledFiles,
    Share,
    drawn_split,
    entry,
    excerpt,
    find_images,
    image_names,
    paths_below,
    read_json,
    read_list,
    require_folder,
    require_one_size,
    written_alike,
)
from ._images import UNDECODABLE, as_ids, open_image
from ._palettes import bit_palette
from ._shapes import Overlap, Region, circle, draw, polygon, stacked

LAYOUT = "<root>/<split>/<name>.json and the image of that name beside it, or where the JSON's imagePath says"
POINTS = {"rectangle": 2, "circle": 2, "mask": 2}  # polygons have three or more
BACKGROUND, IGNORED = "_background_", "__ignore__"  # what LabelMe's own labels.txt calls them


class LabelMe(LabelledFiles):
    """Images and label maps drawn of polygons, rectangles, circles and masks.

    Polygons are filled as COCO's are, and a circle holds the pixels whose middle it holds. Shapes labelled
    `_background_` are background, such as holes, and those labelled `__ignore__` are ignored.

    Args:
        root: every path below is relative to it.
        split: any word; it replaces `{split}` in `labels`.
        labels: the folder of the JSON files, searched at any depth. An image without one is no part of the data set,
            as LabelMe writes none before something is marked; one that holds no shape makes all of it background.
        label_names: the labels that shapes may have, in the order of the classes. None: the lines of labels.txt in
            root, else all labels of all JSON files below root, sorted, for which each of them is read.
        classes: which of them are trained on, merged or ignored: `{road: [road, parking], "*": background}`. Pixels in
            no shape are called `background`, the first class. None: all of them.
        overlap: `order`: later shapes lie on earlier ones, as LabelMe draws them; `area`: those with fewer pixels lie on
            those with more.
        val: divides the images of one folder, see `folder`.

    Items: (image, target): RGB image and mode L target. Their names are paths below `labels` without ending, folders
    joined by underscores.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        labels: str = "{split}",
        label_names: Annotated[tuple[str, ...], Len(1)] | None = None,
        classes: Classes | None = None,
        overlap: Overlap = "order",
        val: Share | None = None,
    ):
        self.overlap = overlap
        folder = require_folder(Path(root) / labels.replace("{split}", split), LAYOUT)
        found = {name.removesuffix(".json"): path for name, path in sorted(paths_below(folder, (".json",)).items())}
        if not found:
            raise ValueError(f"{folder}: no JSON files. Expected layout: {LAYOUT}")
        names = [name for name in label_names or _labels(Path(root)) if name not in (BACKGROUND, IGNORED, "background")]
        self.class_names, ids = choose_classes(["background", *names], classes)
        self.num_classes, self.palette = len(self.class_names), bit_palette(len(self.class_names))
        self.outside, self.train_ids = ids[0], dict(zip(("background", *names), ids))
        self.train_ids |= {BACKGROUND: ids[0], IGNORED: self.ignore_index}
        images, keys = find_images(folder), list(found)
        self.images_left_out = tuple(path for key, path in images.items() if key not in found)
        keys = [keys[place] for place in drawn_split(keys, split, val, labels)]
        self.names = image_names(keys)
        self.files = [(images.get(key) or _image_of(found[key]), found[key]) for key in keys]

    def target(self, index: int, size: tuple[int, int]) -> Image.Image:
        """The label map that the shapes of an image's JSON draw."""
        image, path = self.files[index]
        content = read_json(path, LAYOUT)
        width, height = (content.get(f"image{side}") for side in ("Width", "Height"))
        if width is not None and height is not None:
            require_one_size(image, size, path, (width, height))
        shapes = []
        for number, shape in enumerate(entry(content, "shapes", list, path), start=1):
            label = entry(shape, "label", str, f"{path}: shape {number}")
            where = f"{path}: shape {number} ({excerpt(label)})"
            if label not in self.train_ids:
                raise ValueError(f"{where}: is none of the classes, which are {listed(self.train_ids)}")
            try:
                shapes.append((self.train_ids[label], _region(shape, size)))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        return draw(stacked(shapes, self.overlap), size, self.outside)


def _labels(root: Path) -> list[str]:
    """The labels in labels.txt, else of all shapes below the folder."""
    if (root / "labels.txt").is_file():
        return read_list(root / "labels.txt", "one label a line")
    found = set()
    for path in paths_below(root, (".json",)).values():
        for shape in entry(read_json(path, LAYOUT), "shapes", list, path):
            found.add(entry(shape, "label", str, path))
    return sorted(found)


def _image_of(path: str) -> str:
    """The image that a JSON without one of its name beside it is of."""
    given = entry(read_json(path, LAYOUT), "imagePath", str, path)
    image = os.path.normpath(os.path.join(os.path.dirname(path), given.replace("\\", "/")))
    folder, wanted = os.path.split(image)
    present = os.listdir(folder) if os.path.isdir(folder) else []
    name = {written_alike(one): one for one in present}.get(written_alike(wanted))
    if name is None:
        raise FileNotFoundError(
            f"{path}: there is no image of this name beside it, nor {image}, which its imagePath names"
        )
    return os.path.join(folder, name)


def _region(shape: dict, size: tuple[int, int]) -> Region:
    """The pixels of a shape in an image of that width and height."""
    kind = str(shape.get("shape_type") or "polygon")
    if kind != "polygon" and kind not in POINTS:
        read = "polygon, rectangle, circle and mask"
        raise ValueError(f"a shape of type {excerpt(kind)} has no pixels inside; those that are read are {read}")
    try:
        points = np.array(shape.get("points"), np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise ValueError("its points are pairs of numbers, and these are not") from None
    if kind == "polygon":
        return polygon(points, size)
    if len(points) != 2:
        raise ValueError(f"a {kind} has two points, and this one has {len(points)}")
    if not np.isfinite(points).all():
        raise ValueError("its points are pairs of numbers, and one is infinite or no number")
    (left, top), (right, bottom) = points
    if kind == "rectangle":
        return polygon(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), size)
    if kind == "circle":
        return circle(left, top, float(np.hypot(right - left, bottom - top)), size)
    return _mask(shape.get("mask"), round(left), round(top), size)


def _mask(text: object, left: int, top: int, size: tuple[int, int]) -> Region:
    """The pixels of a PNG file in base 64 whose upper left pixel is (top, left) of the image; the rest is cut off."""
    try:
        content = base64.b64decode(text, validate=True)
        with open_image("mask", content=content) as image:
            mask = np.asarray(as_ids(image)) > 0
    except (TypeError, binascii.Error, *UNDECODABLE) as error:
        raise ValueError(f"its mask is no PNG file in base 64: {error}") from None
    mask = mask[max(-top, 0) : max(size[1] - top, 0), max(-left, 0) : max(size[0] - left, 0)]
    return Region(max(top, 0), max(left, 0), mask)
