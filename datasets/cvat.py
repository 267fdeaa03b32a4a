"""CVAT's export "Segmentation mask": the folders of VOC, masks painted in the colours of labelmap.txt."""

import os
from pathlib import Path

from PIL import Image

from ._classes import Classes, choose_classes, colors_of
from ._files import (
    IGNORE_INDEX,
    LabelledFiles,
    Share,
    drawn_split,
    excerpt,
    image_names,
    lookup_table,
    paths_below,
    read_label,
    read_list,
    refuse_second,
    require_folder,
    written_alike,
)
from ._images import RefusedFile, open_image
from ._label_images import color_ids, read_painted
from ._palettes import Color, bit_palette
from .voc import VOC

LAYOUT = (
    "<root>/labelmap.txt, <root>/ImageSets/Segmentation/<split>.txt, <root>/JPEGImages/<name>.jpg (or .png) and "
    "<root>/SegmentationClass/<name>.png"
)
BORDER = (224, 224, 192)  # of objects in VOC


class CVAT(LabelledFiles):
    """Images and masks of CVAT's segmentation masks, which may be RGB, have a palette, or hold ids in grey.

    Args:
        root: the folder of the export.
        split: any word; it replaces `{split}` in `subset`.
        subset: the list in ImageSets/Segmentation; a task without subsets has `default`.
        images: the folder of the images, which CVAT leaves out unless it is told to save them.
        classes: which labels are trained on, merged or ignored, by name: `{road: [road, parking], void: ignore}`. None:
            all of labelmap.txt in its order, or VOC's where there is none. VOC's colour of object borders is ignored
            unless a label has it.
        val: divides the images of one subset, see `folder`.

    Items: (image, target): RGB image and mode L target. Their names are those of the list, folders joined by
    underscores.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        subset: str = "{split}",
        images: str = "JPEGImages",
        classes: Classes | None = None,
        val: Share | None = None,
    ):
        labels = _labelmap(Path(root) / "labelmap.txt")
        self.class_names, ids = choose_classes(list(labels), classes)
        self.num_classes = len(self.class_names)
        self.palette = colors_of(ids, list(labels.values()), self.num_classes)
        self.colors = {BORDER: IGNORE_INDEX} | color_ids(list(labels), list(labels.values()), ids)
        self.table = lookup_table(dict(enumerate(ids)) | {IGNORE_INDEX: IGNORE_INDEX}, ignore=())
        self.rule = f"grey masks hold 0..{len(labels) - 1}, the lines of labelmap.txt from 0 on, and 255"
        path = Path(root, "ImageSets/Segmentation", f"{subset.replace('{split}', split)}.txt")
        if not path.exists() and path.parent.is_dir():
            found = ", ".join(sorted(one.stem for one in path.parent.glob("*.txt"))) or "none"
            raise FileNotFoundError(
                f"{path}: no such list; there are: {found}. A task without subsets is read by args: {{subset: default, "
                f"val: 0.1}}, which divides it"
            )
        names = read_list(path, LAYOUT)
        names = [names[place] for place in drawn_split(names, split, val, subset)]
        pixels = _find(names, Path(root) / images, path)
        masks = _find(names, Path(root) / "SegmentationClass", path)
        self.names, self.files = image_names(map(written_alike, names)), list(zip(pixels, masks))

    def read_target(self, path: str) -> Image.Image:
        """The mask as train ids, mode L."""
        try:
            with open_image(path, self.max_pixels) as image:
                is_painted = image.mode not in ("1", "L", "I;16")
        except (RefusedFile, OSError, ValueError):
            is_painted = True  # whoever reads it says what is wrong
        if not is_painted:
            return read_label(path, self.table, self.rule, self.max_pixels)
        return read_painted(path, self.colors, "is none of those in labelmap.txt", self.max_pixels)


def _labelmap(path: Path) -> dict[str, Color]:
    """Label -> colour, in the order of the file: lines `label:red,green,blue:parts:actions`."""
    if not path.exists():
        return dict(zip(VOC.class_names, VOC.palette))
    lines = [line for line in read_list(path, LAYOUT) if not line.startswith("#")]
    found: dict[str, Color] = {}
    for number, (line, default) in enumerate(zip(lines, bit_palette(len(lines))), start=1):
        label, *rest = line.rsplit(":", 3)
        levels = rest[0].split(",") if len(rest) == 3 and rest[0] else list(map(str, default))
        if len(rest) != 3 or len(levels) != 3 or not all(one.strip().isdecimal() and int(one) < 256 for one in levels):
            raise ValueError(f"{path}, label {number}: expected name:red,green,blue:parts:actions, got {excerpt(line)}")
        if label in found:
            raise ValueError(f"{path}, label {number}: {excerpt(label)} stands there twice")
        found[label] = (int(levels[0]), int(levels[1]), int(levels[2]))
    return found


def _find(names: list[str], folder: Path, listed: Path) -> list[str]:
    """The path of each name's file in a folder, which is listed once."""
    present: dict[str, str] = {}
    for name, path in paths_below(require_folder(folder, LAYOUT)).items():
        refuse_second(present.setdefault(os.path.splitext(name)[0], path), path)
    for name in names:
        if written_alike(name) not in present:
            raise FileNotFoundError(f"{folder / name}.*: {listed} lists this image, and it does not exist there")
    return [present[written_alike(name)] for name in names]
