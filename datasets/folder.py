"""Any folder of images with label images beside it: your own data."""

import os
import re
from pathlib import Path
from typing import Annotated

from annotated_types import Len
from PIL import Image

from ._classes import Classes
from ._files import (
    LabelledFiles,
    Share,
    drawn_split,
    excerpt,
    files_below,
    pair_labels,
    read_list,
    require_folder,
    require_images,
    written_alike,
)
from ._label_images import LabelId, label_images
from ._palettes import Color


class Folder(LabelledFiles):
    """Images and labels paired by name, or by a list file.

    Args:
        root: every path below is relative to it.
        split: any word; it replaces `{split}` in images, labels and list_file.
        class_names: one name per class that label files hold; their number is the number of classes. None: they are
            those of `colors`.
        classes: which of them are trained on, merged or ignored: `{road: [road, parking], void: ignore, "*": keep}`.
        images, labels: folders, searched at any depth. An image and its label have the same path below their folder
            once image_suffix, label_suffix and the file endings are taken off (`a_image.jpg` and `a_mask.png` pair
            with image_suffix `_image` and label_suffix `_mask`). Or templates of whole paths, such as
            `images/{split}/{name}.jpg` and `masks/{split}/{name}_mask.png`: what stands for `{name}` is the same in
            both, also across folders, and `*` stands for anything within one part of a path.
        list_file: instead of the folders, a text file with one "image label" a line, relative to root; a tab between
            the two where a path holds blanks, else a tab or blanks.
        val: divides images that lie in no splits: this share of them is split `val`, the others are `train`. The name
            of an image alone decides, so that it stays where it is when others are added.
        palette: one RGB colour per class; None takes VOC's colour map.
        colors: the labels are RGB images painted in the palette's colours; or a table of the names and colours,
            `{road: [128, 64, 128], water: [0, 0, 255]}`, in place of class_names and palette.
        void_colors: further colours that labels may hold; their pixels are ignored (255).
        lookup: raw id in the label files -> train id; None: files hold 0..K-1. Masks of 0 and 255 have {0: 0, 255: 1}.
        ignore: raw ids whose pixels are ignored (255); None: 255, unless `lookup` says what that is.

    Items: (image, target): RGB image and mode L target with train ids 0..K-1 and 255. An image's name is its path below
    its folder without suffix and ending, or what stands for {name}, folders joined by underscores.

    Raises:
        ValueError: besides, arguments that contradict each other, and on access an unknown colour.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        class_names: Annotated[tuple[str, ...], Len(1, 255)] | None = None,
        classes: Classes | None = None,
        images: str = "{split}/images",
        labels: str = "{split}/labels",
        image_suffix: str = "",
        label_suffix: str = "",
        list_file: str | None = None,
        val: Share | None = None,
        palette: tuple[Color, ...] | None = None,
        colors: bool | dict[str, Color] = False,
        void_colors: tuple[Color, ...] = (),
        lookup: dict[LabelId, LabelId] | None = None,
        ignore: tuple[LabelId, ...] | None = None,
    ):
        self.labels = label_images(class_names, classes, palette, colors, void_colors, lookup, ignore)
        self.class_names, self.palette = self.labels.class_names, self.labels.palette
        self.num_classes, self.table, self.rule = len(self.class_names), self.labels.table, self.labels.rule
        if list_file is not None:
            names, files = _read_pairs(root, list_file.replace("{split}", split))
        elif "{name}" in images or "{name}" in labels:
            names, files = _find_by_template(root, split, images, labels)
        else:
            names, files = _find_pairs(root, split, images, labels, image_suffix, label_suffix)
        kept = drawn_split(names, split, val)
        self.names, self.files = [names[index] for index in kept], [files[index] for index in kept]

    def read_target(self, path: str) -> Image.Image:
        """The label file as train ids, mode L."""
        return self.labels.read(path, self.max_pixels)


def _find_pairs(
    root: str, split: str, images: str, labels: str, image_suffix: str, label_suffix: str
) -> tuple[list[str], list[tuple[str, str]]]:
    layout = f"<root>/{images}/<name>{image_suffix}.png|jpg and <root>/{labels}/<name>{label_suffix}.png"
    if "{split}" in images:
        layout += " (folders without {split} in their names are divided by val: 0.1)"
    found = require_images(Path(root) / images.replace("{split}", split), layout, image_suffix)
    pairs = pair_labels(found, Path(root) / labels.replace("{split}", split), layout, label_suffix)
    return [key.replace("/", "_") for key in found], pairs


def _find_by_template(root: str, split: str, images: str, labels: str) -> tuple[list[str], list[tuple[str, str]]]:
    label_of = _matching(root, split, "labels", labels)
    names, files, taken = [], [], set(label_of.values())
    for name, image in _matching(root, split, "images", images).items():
        if image in taken:  # {name}.png also fits the label files {name}_mask.png beside it
            continue
        if name not in label_of:
            label = os.path.join(root, labels.replace("{split}", split).replace("{name}", name))
            raise FileNotFoundError(f"{image}: its label {label} does not exist")
        names.append(name.replace("/", "_"))
        files.append((image, label_of[name]))
    if not files:
        raise ValueError(f"{root}: no images like {images.replace('{split}', split)} that are no labels themselves")
    return names, files


def _matching(root: str, split: str, argument: str, template: str) -> dict[str, str]:
    """What stands for {name} -> path, in order, for every file like the template."""
    unknown = set(re.findall(r"\{.*?\}", template)) - {"{split}", "{name}"}
    if unknown or "{name}" not in template:
        told = f"{sorted(unknown)[0]} is unknown" if unknown else "{name} stands in the other one and not here"
        raise ValueError(f"{argument}: {template}: {told}; a template of paths is like images/{{split}}/{{name}}.jpg")
    whole = template.replace("{split}", split)
    folder = require_folder(Path(root, re.split(r"\{name\}|\*", whole)[0] + ".").parent, f"<root>/{template}")
    pattern = re.escape(written_alike(whole)).replace(r"\*", "[^/]*")
    pattern = pattern.replace(r"\{name\}", "(?P<name>.+)", 1).replace(r"\{name\}", "(?P=name)")
    found: dict[str, str] = {}
    for parent, file in files_below(folder):
        path = os.path.join(parent, file)
        match = re.fullmatch(pattern, written_alike(os.path.relpath(path, root)))
        if match is None or file.startswith("."):
            continue
        if match["name"] in found:
            raise ValueError(f"{path} and {found[match['name']]}: two {argument} of one name; keep one of them")
        found[match["name"]] = path
    return dict(sorted(found.items()))


def _read_pairs(root: str, list_file: str) -> tuple[list[str], list[tuple[str, str]]]:
    path, names, files = Path(root) / list_file, [], []
    rule = "where a path holds blanks, one tab stands between the two"
    for number, line in enumerate(read_list(path, 'a text file with "image label" on each line'), start=1):
        parts = line.split("\t") if "\t" in line else line.split()
        if len(parts) != 2:
            told = f'{path}, entry {number}: expected "image label", two paths below {root}, got {excerpt(line)}'
            raise ValueError(f"{told}; {rule}")
        image, label = (os.path.join(root, part.strip()) for part in parts)
        for file in (image, label):
            if "\0" in file or not os.path.isfile(file):
                shown = file if len(file) < 300 else f"{file[:300]}..."
                told = f"{shown}: listed in {path} (entry {number}) but no file of this name exists"
                raise FileNotFoundError(told if "\t" in line else f"{told}; {rule}")
        files.append((image, label))
        names.append(os.path.splitext(parts[0].strip())[0].replace("/", "_"))
    return names, files
