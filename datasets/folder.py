"""Any folder of images with label images beside it: your own data."""

import os
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Interval, Len
from PIL import Image

from ._files import (
    IGNORE_INDEX,
    LabelledFiles,
    excerpt,
    lookup_table,
    pair_labels,
    read_image,
    read_list,
    require_images,
)
from ._palettes import Color, bit_palette

LabelId = Annotated[int, Interval(ge=0, le=255)]


class Folder(LabelledFiles):
    """Images and labels paired by name, or by a list file.

    Args:
        root: every path below is relative to it.
        split: any word; it replaces `{split}` in images, labels and list_file.
        images, labels: folders, searched at any depth. An image and its label have the same path below their folder
            once image_suffix, label_suffix and the file endings are taken off (`a_image.jpg` and `a_mask.png` pair
            with image_suffix `_image` and label_suffix `_mask`).
        list_file: instead of the folders, a text file with one "image label" a line, relative to root; a tab between
            the two where a path holds blanks, else a tab or blanks.
        class_names: one name per class; their number is the number of classes.
        palette: one RGB colour per class; None takes VOC's colour map.
        colors: the labels are RGB images painted in the palette's colours.
        void_colors: further colours that labels may hold; their pixels are ignored (255).
        lookup: raw id in the label files -> train id; None: files hold 0..K-1. Masks of 0 and 255 have {0: 0, 255: 1}.
        ignore: raw ids whose pixels are ignored (255); None: 255, unless `lookup` says what that is.

    Items: (image, target): RGB image and mode L target with train ids 0..K-1 and 255. An image's name is its path below
    its folder without suffix and ending, folders joined by underscores.

    Raises:
        ValueError: besides, arguments that contradict each other, and on access an unknown colour.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        class_names: Annotated[tuple[str, ...], Len(1, 255)],
        images: str = "{split}/images",
        labels: str = "{split}/labels",
        image_suffix: str = "",
        label_suffix: str = "",
        list_file: str | None = None,
        palette: tuple[Color, ...] | None = None,
        colors: bool = False,
        void_colors: tuple[Color, ...] = (),
        lookup: dict[LabelId, LabelId] | None = None,
        ignore: tuple[LabelId, ...] | None = None,
    ):
        self.class_names = tuple(class_names)
        self.num_classes = len(self.class_names)
        self.palette = bit_palette(self.num_classes) if palette is None else tuple(map(tuple, palette))
        if len(self.palette) != self.num_classes:
            raise ValueError(f"palette: one colour per class, got {len(self.palette)} for {self.num_classes} classes")
        if colors and (palette is None or lookup is not None):
            raise ValueError("colors: labels made of colours need a palette and take no lookup of ids")
        if void_colors and not colors:
            raise ValueError("void_colors: only labels made of colours (colors: true) have them")
        if colors and set(ignore or ()) - {IGNORE_INDEX}:
            raise ValueError("ignore: labels made of colours have no ids to ignore; void_colors names their colours")
        self.codes = _color_codes(self.palette, void_colors) if colors else None
        self.table, self.rule = _id_table(lookup, ignore, self.num_classes)
        if list_file is None:
            self.names, self.files = _find_pairs(root, split, images, labels, image_suffix, label_suffix)
        else:
            self.names, self.files = _read_pairs(root, list_file.replace("{split}", split))

    def read_target(self, path: str) -> Image.Image:
        """The label file as train ids, mode L."""
        return super().read_target(path) if self.codes is None else _read_colors(path, *self.codes, self.max_pixels)


def _id_table(
    lookup: dict[int, int] | None, ignore: tuple[int, ...] | None, num_classes: int
) -> tuple[tuple[int, ...], str]:
    mapping = {index: index for index in range(num_classes)} if lookup is None else lookup
    for raw, train_id in mapping.items():
        if not (0 <= train_id < num_classes or train_id == IGNORE_INDEX):
            raise ValueError(f"lookup: {raw} -> {train_id}; train ids are 0..{num_classes - 1} and 255 (ignored)")
    ids = f"0..{num_classes - 1}" if lookup is None else "those of lookup"
    if ignore is None:
        ignore = () if IGNORE_INDEX in mapping else (IGNORE_INDEX,)
    for raw in ignore if lookup else ():
        if lookup.get(raw, IGNORE_INDEX) != IGNORE_INDEX:
            raise ValueError(f"lookup: id {raw} is class {lookup[raw]} there, and `ignore` ignores it; change one")
    mapping = {raw: train_id for raw, train_id in mapping.items() if raw not in ignore}
    return lookup_table(mapping, ignore), f"allowed are {ids} and, ignored, {_ranges(ignore) or 'none'}"


def _ranges(ids: tuple[int, ...]) -> str:
    """`3, 7..255`: sorted ids in few words."""
    words: list[list[int]] = []
    for number in sorted(set(ids)):
        if words and words[-1][1] == number - 1:
            words[-1][1] = number
        else:
            words.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}..{last}" for first, last in words)


def _find_pairs(
    root: str, split: str, images: str, labels: str, image_suffix: str, label_suffix: str
) -> tuple[list[str], list[tuple[str, str]]]:
    layout = f"<root>/{images}/<name>{image_suffix}.png|jpg and <root>/{labels}/<name>{label_suffix}.png"
    found = require_images(Path(root) / images.replace("{split}", split), layout, image_suffix)
    pairs = pair_labels(found, Path(root) / labels.replace("{split}", split), layout, label_suffix)
    return [key.replace("/", "_") for key in found], pairs


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


def _color_codes(palette: tuple[Color, ...], void_colors: tuple[Color, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted 24-bit codes of all allowed colours, and the train id of each."""
    ids: dict[int, int] = {}
    for place, (red, green, blue) in enumerate([*palette, *void_colors]):
        code = red << 16 | green << 8 | blue
        if code in ids:
            raise ValueError(f"palette: colour {(red, green, blue)} occurs twice")
        ids[code] = place if place < len(palette) else IGNORE_INDEX
    return np.array(sorted(ids), dtype=np.int32), np.array([ids[code] for code in sorted(ids)], dtype=np.uint8)


def _read_colors(path: str, codes: np.ndarray, ids: np.ndarray, max_pixels: int) -> Image.Image:
    pixels = np.asarray(read_image(path, max_pixels)).astype(np.int32)
    found = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]  # (H, W)
    # neighbours mostly share a colour: each run is looked up once
    flat = found.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    runs = flat[starts]
    places = np.minimum(np.searchsorted(codes, runs), len(codes) - 1)
    unknown = np.unique(runs[codes[places] != runs])
    if len(unknown):
        shown = ", ".join(str((int(code) >> 16, int(code) >> 8 & 255, int(code) & 255)) for code in unknown[:5])
        raise ValueError(f"{path}: colour {shown} is neither in the palette nor in void_colors (JPEG alters colours)")
    target = np.repeat(ids[places], np.diff(np.append(starts, flat.size)))
    return Image.fromarray(target.reshape(found.shape))  # (H, W)
