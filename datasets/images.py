"""Any folder of images that nobody has labelled: for students that learn from other networks alone."""

from pathlib import Path
from typing import Annotated

from annotated_types import Len

from ._files import LabelledFiles, Share, drawn_split, require_images
from ._palettes import bit_palette


class Images(LabelledFiles):
    """Every image below a folder, at any depth.

    Args:
        root: the folder; `images` is relative to it.
        split: any word; it replaces `{split}` in `images`.
        images: where below root the images lie, such as `{split}/images`.
        val: as of datasets/folder.py: the share of the images that is held out to judge by, drawn by their names.
        class_names: what a teacher's classes are called, for a student with a head that learns them. None: no classes.

    Items: (image, target): RGB image and mode L target, 255 everywhere. An image's name is its path below its folder
    without ending.
    """

    has_labels = False

    def __init__(
        self,
        root: str,
        split: str,
        *,
        images: str = "",
        val: Share | None = None,
        class_names: Annotated[tuple[str, ...], Len(1, 255)] | None = None,
    ):
        self.class_names = class_names or ()
        self.num_classes, self.palette = len(self.class_names), bit_palette(len(self.class_names))
        layout = f"<root>/{images}/<name>.png|jpg" if images else "<root>/<name>.png|jpg"
        found = require_images(Path(root, images.replace("{split}", split)), layout)
        names = list(found)
        self.names = [names[index] for index in drawn_split(names, split, val, images)]
        self.files = [(found[name], None) for name in self.names]
