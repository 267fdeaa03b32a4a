"""COCO's JSON files, instances or panoptic: the published ones and those that annotation tools write.

Sources: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; Kirillov et al., "Panoptic Segmentation",
CVPR 2019, arXiv 1801.00868.
"""

import os
import pickle
from typing import Literal

import numpy as np
from PIL import Image

from ._classes import Classes, choose_classes
from ._files import (
    IGNORE_INDEX,
    LabelledFiles,
    Share,
    drawn_split,
    entry,
    excerpt,
    image_names,
    name_of_file,
    paths_below,
    read_json,
    require_folder,
    require_one_size,
    written_alike,
)
from ._label_images import read_painted
from ._palettes import Color, bit_palette
from ._shapes import Overlap, Region, draw, polygon, run_lengths, stacked, union

LAYOUT = "<root>/annotations/instances_<split>2017.json (`annotations`), images below <root>/<split>2017 (`images`)"
ID = (int, str)


class COCO(LabelledFiles):
    """Images and label maps of an instances JSON, or of a panoptic one, which its `segments_info` tell.

    Polygons are filled pixel for pixel as pycocotools fills them.

    Args:
        root: every path below is relative to it.
        split: any word; it replaces `{split}` in `annotations`, `images` and `panoptic`.
        annotations: the JSON file.
        images: the folder in which its images lie.
        panoptic: the folder of a panoptic JSON's PNG files; None: the one beside the JSON that is called like it.
        classes: which categories are trained on, merged or ignored, by name: `{vehicle: [car, bus], "*": background}`.
            Pixels of no category are called `background`, the first class; in panoptic files `void`, which is ignored.
            None: all of them, in the order of their ids.
        overlap: where instances overlap. `area`: those with fewer pixels lie on those with more; `order`: later ones
            of the file on earlier ones. Regions of many objects (`iscrowd`) lie below both.
        crowd: whether such regions are of their class, or ignored.
        val: divides the images of one JSON, see `folder`.

    Items: (image, target): RGB image and mode L target. An image without annotations is background. Their names are the
    file names without ending, folders joined by underscores, in whose order they are.

    Raises:
        ValueError: besides, whatever the JSON lacks, such as the segmentation of a box.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        annotations: str = "annotations/instances_{split}2017.json",
        images: str = "{split}2017",
        panoptic: str | None = None,
        classes: Classes | None = None,
        overlap: Overlap = "area",
        crowd: Literal["class", "ignore"] = "class",
        val: Share | None = None,
    ):
        def below(path: str) -> str:
            return os.path.join(root, path.replace("{split}", split))

        self.path, self.overlap, self.crowd = below(annotations), overlap, crowd
        content = read_json(self.path, LAYOUT)
        notes = entry(content, "annotations", list, self.path)
        self.is_panoptic = bool(notes) and isinstance(notes[0], dict) and "segments_info" in notes[0]
        categories = {
            key: entry(one, "name", str, self.path) for key, one in self._by_id(content, "categories").items()
        }
        if self.is_panoptic:
            self.class_names, ids = choose_classes(["void", *categories.values()], classes, ["void"])
        else:
            self.class_names, ids = choose_classes(["background", *categories.values()], classes)
        self.num_classes, self.palette = len(self.class_names), bit_palette(len(self.class_names))
        self.outside, self.train_ids = ids[0], dict(zip(categories, ids[1:]))

        records = self._by_id(content, "images")
        names = {key: entry(record, "file_name", str, self.path) for key, record in records.items()}
        found, self.images_left_out = self._paths(names, below(images))
        shapes, masks = self._shapes(notes, names)
        labels = dict.fromkeys(names, self.path)
        if self.is_panoptic:
            folder = below(panoptic) if panoptic else os.path.splitext(self.path)[0]
            labels, self.labels_left_out = self._paths(masks, folder)
        called = dict(zip(names, image_names(map(written_alike, names.values()), name_of_file)))
        order = sorted(called, key=called.__getitem__)
        order = [order[place] for place in drawn_split([called[key] for key in order], split, val, annotations)]
        self.names, self.files = [called[key] for key in order], [(found[key], labels[key]) for key in order]
        self.sizes = [(records[key].get("width"), records[key].get("height")) for key in order]
        # as bytes: each loading process would come to own millions of small objects that it only reads
        self.shapes = [pickle.dumps(shapes[key]) for key in order]

    def target(self, index: int, size: tuple[int, int]) -> Image.Image:
        """The label map that an image's annotations draw."""
        image, label = self.files[index]
        if None not in self.sizes[index]:
            require_one_size(image, size, self.path, self.sizes[index])
        shapes = pickle.loads(self.shapes[index])
        if self.is_panoptic:
            ids = {(0, 0, 0): self.outside} | {_color(number): train_id for number, train_id in shapes}
            return read_painted(label, ids, f"is no segment that {self.path} lists for it", self.max_pixels)
        drawn: tuple[list[tuple[int, Region]], ...] = ([], [])  # single objects, crowds
        for number, train_id, is_crowd, segmentation in shapes:
            try:
                drawn[is_crowd].append((train_id, _region(segmentation, size)))
            except ValueError as error:
                raise ValueError(f"{self.path}: annotation {number}, of {image}: {error}") from None
        return draw([*drawn[True], *stacked(drawn[False], self.overlap)], size, self.outside)

    def _by_id(self, content: dict, kind: str) -> dict[int | str, dict]:
        """The JSON's images or categories by their id, in its order."""
        found: dict[int | str, dict] = {}
        for one in entry(content, kind, list, self.path):
            key = entry(one, "id", ID, f"{self.path}: {kind}")
            if key in found:
                raise ValueError(f"{self.path}: {kind}: two have the id {key!r}")
            found[key] = one
        if not found:
            raise ValueError(f"{self.path}: {kind}: there are none")
        return dict(sorted(found.items())) if kind == "categories" and len({type(key) for key in found}) == 1 else found

    def _paths(self, names: dict[int | str, str], folder: str) -> tuple[dict[int | str, str], tuple[str, ...]]:
        """The path of each image that the JSON names, and those of others; the folder is listed once."""
        present = paths_below(require_folder(folder, LAYOUT))
        missing = [name for name in names.values() if written_alike(name) not in present]
        if missing:
            raise FileNotFoundError(
                f"{os.path.join(folder, missing[0])}: {self.path} names this image, and it does not exist "
                f"({len(missing)} of {len(names)} do not)"
            )
        found = {key: present[written_alike(name)] for key, name in names.items()}
        named = set(found.values())
        return found, tuple(path for path in present.values() if path not in named)

    def _shapes(self, notes: list, names: dict[int | str, str]) -> tuple[dict[int | str, list], dict[int | str, str]]:
        """Image id -> what its annotations say, and -> the name of its PNG file where they are panoptic."""
        shapes: dict[int | str, list] = {key: [] for key in names}
        masks: dict[int | str, str] = {}
        for place, note in enumerate(notes, start=1):
            number = note.get("id", f"no. {place}") if isinstance(note, dict) else f"no. {place}"
            where = f"{self.path}: annotation {number}"
            image = entry(note, "image_id", ID, where)
            if image not in shapes:
                raise ValueError(f"{where}: is of image {image!r}, which is not among the images")
            if not self.is_panoptic:
                shapes[image].append([number, *self._class(note, where), note.get("segmentation")])
                continue
            masks[image] = entry(note, "file_name", str, where)
            for segment in entry(note, "segments_info", list, where):
                shapes[image].append([entry(segment, "id", int, where), self._class(segment, where)[0]])
        without = [name for key, name in names.items() if self.is_panoptic and key not in masks]
        if without:
            raise ValueError(f"{self.path}: no annotation is of {excerpt(without[0])} ({len(without)} such images)")
        return shapes, masks

    def _class(self, note: dict, where: str) -> tuple[int, bool]:
        """The train id of an annotation, and whether it is of a crowd."""
        category, is_crowd = entry(note, "category_id", ID, where), note.get("iscrowd") or 0
        if is_crowd not in (0, 1):
            raise ValueError(f"{where}: 'iscrowd' must be 0 or 1, and is {excerpt(str(is_crowd))}")
        if category not in self.train_ids:
            raise ValueError(f"{where}: is of category {category!r}, which is not among the categories")
        return IGNORE_INDEX if is_crowd and self.crowd == "ignore" else self.train_ids[category], bool(is_crowd)


def _region(segmentation: object, size: tuple[int, int]) -> Region:
    """The pixels of one object in an image of that width and height."""
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), (str, list)):
        if segmentation.get("size") != [size[1], size[0]]:
            told = f"its run lengths are of an image of {excerpt(str(segmentation.get('size')))} (height, width)"
            raise ValueError(f"{told}, and this one has {[size[1], size[0]]}")
        return run_lengths(segmentation["counts"], size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no segmentation (polygons or run lengths); a box alone says nothing of pixels")
    parts = []
    for part in segmentation:
        try:
            points = np.array(part, np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            raise ValueError(f"a polygon is a list of numbers x, y, x, y, ..., and not {excerpt(str(part))}") from None
        parts.append(polygon(points, size))
    return union(parts)


def _color(number: int) -> Color:
    """How a panoptic PNG file paints the segment of that id."""
    return number & 255, number >> 8 & 255, number >> 16 & 255
