"""Any folder of images with label images beside it: your own data."""

import functools
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Len
from PIL import Image

from ._classes import Classes
from ._files import (
    IMAGE_SUFFIXES,
    LabelledFiles,
    Share,
    drawn_split,
    excerpt,
    files_below,
    find_images,
    image_names,
    name_of_file,
    paths_below,
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
            both, also across folders, and `*` stands for anything within one part of a path, `.*` at the end for the
            ending of any image. Upper and lower case of endings are the same.
        without_label: an image whose label file is not there is an error, or left out (`skip`).
        list_file: instead of the folders, a text file with one "image label" a line, relative to root; a tab between
            the two where a path holds blanks, else a tab or blanks. Or one image a line, of those in `images`: its path
            or the end of it, with or without the file's ending; its label is found in `labels`.
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
        without_label: Literal["error", "skip"] = "error",
        list_file: str | None = None,
        val: Share | None = None,
        palette: tuple[Color, ...] | None = None,
        colors: bool | dict[str, Color] = False,
        void_colors: tuple[Color, ...] = (),
        lookup: dict[LabelId, LabelId] | None = None,
        ignore: tuple[LabelId, ...] | None = None,
    ):
        repeated = [name for name in dict.fromkeys(class_names or ()) if class_names.count(name) > 1]
        if repeated:
            raise ValueError(
                f"class_names: {excerpt(repeated[0])} stands there twice; `classes` makes one class of several"
            )
        self.labels = label_images(class_names, classes, palette, colors, void_colors, lookup, ignore)
        self.class_names, self.palette = self.labels.class_names, self.labels.palette
        self.num_classes, self.table, self.rule = len(self.class_names), self.labels.table, self.labels.rule
        listed, lines = Path(root, (list_file or "").replace("{split}", split)), []
        if list_file is not None:
            lines = read_list(listed, 'a text file with one "image label", or one image, on each line')
        if lines and len(_parts(lines[0])) == 2:
            names, files = _read_pairs(root, listed, lines)
        else:
            find = _find_by_template if "{name}" in images or "{name}" in labels else _find_in_folders
            found, *labels_and_rule = find(root, split, images, labels, image_suffix, label_suffix)
            found = _only(found, root, listed, lines) if lines else found
            names, files = self._paired(found, *labels_and_rule, without_label)
        kept = drawn_split(names, split, val, images if list_file is None else list_file)
        self.names, self.files = [names[index] for index in kept], [files[index] for index in kept]

    def _paired(
        self, images: dict[str, str], labels: dict[str, str], like: str, without_label: str
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """Names, and (image, label) paths, of the images and labels of one name; `like`: what a label's path is like."""
        lacking = [name for name in images if name not in labels]
        if lacking and (without_label == "error" or len(lacking) == len(images)):
            raise FileNotFoundError(
                f"{images[lacking[0]]}: its label {like.replace('{name}', lacking[0])} does not exist ({len(lacking)} of "
                f"{len(images)} images have none; without_label: skip leaves out those that have none)"
            )
        self.images_left_out = tuple(images[name] for name in lacking)
        self.labels_left_out = tuple(label for name, label in labels.items() if name not in images)
        kept = [name for name in images if name in labels]
        return image_names(kept), [(images[name], labels[name]) for name in kept]

    def read_target(self, path: str) -> Image.Image:
        """The label file as train ids, mode L."""
        return self.labels.read(path, self.max_pixels)


def _find_in_folders(
    root: str, split: str, images: str, labels: str, image_suffix: str, label_suffix: str
) -> tuple[dict[str, str], dict[str, str], str]:
    """The images and the label files below two folders, each by its name, and what a label's path is like."""
    layout = f"<root>/{images}/<name>{image_suffix}.png|jpg and <root>/{labels}/<name>{label_suffix}.png"
    if "{split}" in images:
        layout += " (folders without {split} in their names are divided by val: 0.1)"
    found = require_images(Path(root) / images.replace("{split}", split), layout, image_suffix)
    folder = require_folder(Path(root) / labels.replace("{split}", split), layout)
    return found, find_images(folder, label_suffix), f"{folder}/{{name}}{label_suffix}.png"


def _find_by_template(
    root: str, split: str, images: str, labels: str, *suffixes: str
) -> tuple[dict[str, str], dict[str, str], str]:
    """The same for templates of paths."""
    if any(suffixes):
        raise ValueError("image_suffix, label_suffix: templates say what stands behind {name} themselves")
    label_of = _matching(root, split, "labels", labels)
    taken = set(label_of.values())  # {name}.png also fits the label files {name}_mask.png beside it
    found = {name: path for name, path in _matching(root, split, "images", images).items() if path not in taken}
    if not found:
        raise ValueError(f"{root}: no images like {images.replace('{split}', split)} that are no labels themselves")
    return found, label_of, os.path.join(root, labels.replace("{split}", split))


def _matching(root: str, split: str, argument: str, template: str) -> dict[str, str]:
    """What stands for {name} -> path, in order, for every file like the template."""
    unknown = set(re.findall(r"\{.*?\}", template)) - {"{split}", "{name}"}
    if unknown or "{name}" not in template:
        told = f"{sorted(unknown)[0]} is unknown" if unknown else "{name} stands in the other one and not here"
        raise ValueError(f"{argument}: {template}: {told}; a template of paths is like images/{{split}}/{{name}}.jpg")
    whole = template.replace("{split}", split)
    folder = require_folder(Path(root, os.path.dirname(re.split(r"\{name\}|\*", whole)[0])), f"<root>/{template}")
    start, ending = os.path.splitext(written_alike(whole))
    endings = map(re.escape, IMAGE_SUFFIXES if ending == ".*" else (ending,))
    pattern = f"{re.escape(start)}(?i:{'|'.join(endings)})".replace(r"\*", "[^/]*")
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


def _parts(line: str) -> list[str]:
    """What stands on a line of a list, divided by tabs if there are any, else by blanks."""
    return line.split("\t") if "\t" in line else line.split()


def _only(found: dict[str, str], root: str, listed: Path, lines: list[str]) -> dict[str, str]:
    """Of images by their names, those that a list names, in its order."""
    called: dict[str, set[str]] = defaultdict(set)  # what a line may say -> the names it may mean
    for name, path in found.items():
        below = Path(os.path.relpath(path, root)).parts
        for word in (name, *(written_alike("/".join(below[start:])) for start in range(len(below)))):
            called[word].add(name)
            called[os.path.splitext(word)[0]].add(name)
    chosen = []
    for number, line in enumerate(lines, start=1):
        meant = {line} if line in found else called.get(written_alike(line), set())
        if len(meant) != 1:
            which = f"{len(meant)} images are called so" if meant else f"none of the {len(found)} images is called so"
            raise ValueError(
                f"{listed}, entry {number}: {excerpt(line)}: {which}; a line holds the path or the name of an image, or "
                f'"image label", with a tab between the two where a path holds blanks'
            )
        chosen += meant
    return {name: found[name] for name in chosen}


def _read_pairs(root: str, path: Path, lines: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    paths, files = [], []
    rule = "where a path holds blanks, one tab stands between the two"
    written = functools.cache(lambda: paths_below(root, ("",)))

    def find(part: str) -> str:
        file = os.path.join(root, part)
        is_plain = part.isascii() or "\0" in part
        return (
            file if is_plain or os.path.isfile(file) else written().get(written_alike(part), file)
        )  # its accents may be written otherwise

    for number, line in enumerate(lines, start=1):
        parts = _parts(line)
        if len(parts) != 2:
            told = f'{path}, entry {number}: expected "image label", two paths below {root}, got {excerpt(line)}'
            raise ValueError(f"{told}; {rule}")
        image, label = (find(part.strip()) for part in parts)
        for file in (image, label):
            if "\0" in file or not os.path.isfile(file):
                shown = file if len(file) < 300 else f"{file[:300]}..."
                told = f"{shown}: listed in {path} (entry {number}) but no file of this name exists"
                raise FileNotFoundError(told if "\t" in line else f"{told}; {rule}")
        files.append((image, label))
        paths.append(parts[0].strip())
    return image_names(paths, name_of_file), files
