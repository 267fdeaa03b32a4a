"""A data set divided into images with and without labels, and images that never had any."""

import os
import re
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

from ._files import (
    IGNORE_INDEX,
    LabelledFiles,
    excerpt,
    find_images,
    lookup_table,
    published_split,
    read_label,
    read_list,
    require_one_size,
)
from ._images import MAX_PIXELS

FRACTION = re.compile(r"(\d+)/(\d+)")


class Chosen:
    """Some images of a data set, in the order of `indices`; classes and colours are the data set's."""

    def __init__(self, dataset, indices: list[int]):
        self.dataset, self.indices = dataset, indices
        self.num_classes, self.ignore_index = dataset.num_classes, dataset.ignore_index
        self.class_names, self.palette = dataset.class_names, dataset.palette

    @property
    def files(self) -> list[tuple[str, str | None]]:
        """As of the data set, where it lies in files."""
        return [self.dataset.files[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        return self.dataset[self.indices[index]]

    def name(self, index: int) -> str:
        """The data set's name of the image."""
        return self.dataset.name(self.indices[index])

    def stamp(self, index: int) -> tuple[str | int, ...]:
        """The data set's stamp of the image."""
        return self.dataset.stamp(self.indices[index])


class WithoutLabels:
    """The images of a data set beside targets that are 0 everywhere: training on them sees no label."""

    def __init__(self, dataset):
        self.dataset = dataset

    @property
    def files(self) -> list[tuple[str, None]]:
        """As of the data set, where it lies in files, without the labels."""
        return [(image, None) for image, _ in self.dataset.files]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        image = self.dataset[index][0]
        return image, Image.new("L", image.size, 0)

    def name(self, index: int) -> str:
        """The data set's name of the image."""
        return self.dataset.name(index)

    def stamp(self, index: int) -> tuple[str | int, ...]:
        """The data set's stamp of the image."""
        return self.dataset.stamp(index)


class LabelsFrom:
    """The images of a data set beside labels from elsewhere: <folder>/<name>.png, grey, of train ids 0..K-1 and 255.

    Args:
        folder: None while the labels are still to be made; then all is ignored.
        num_classes: K. field: of the recipe, for the error. max_pixels: of a label that is still read.

    Raises:
        FileNotFoundError: an image has no label.
    """

    def __init__(self, dataset, folder: str | Path | None, num_classes: int, field: str, max_pixels: int = MAX_PIXELS):
        self.dataset, self.ignore_index, self.max_pixels = dataset, IGNORE_INDEX, max_pixels
        self.table = lookup_table({index: index for index in range(num_classes)})
        self.rule = f"the data set's train ids are 0..{num_classes - 1}, and 255 where nothing counts"
        self.labels = None
        if folder is not None:
            self.labels = [os.path.join(folder, f"{dataset.name(index)}.png") for index in range(len(dataset))]
            missing = [path for path in self.labels if not os.path.isfile(path)]
            if missing:
                raise FileNotFoundError(
                    f"{field}: there is no {missing[0]} ({len(missing)} such labels of {len(dataset)})"
                )

    @property
    def files(self) -> list[tuple[str, str | None]]:
        """As of the data set, where it lies in files, with these labels."""
        return [(image, label) for (image, _), label in zip(self.dataset.files, self.labels or repeat(None))]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        image = self.dataset[index][0]
        if self.labels is None:
            return image, Image.new("L", image.size, IGNORE_INDEX)
        path = self.labels[index]
        target = read_label(path, self.table, self.rule, self.max_pixels)
        require_one_size(self.name(index), image.size, path, target.size)
        return image, target

    def name(self, index: int) -> str:
        """The data set's name of the image."""
        return self.dataset.name(index)


class WithExtra:
    """A data set and, behind it, images whose labels are of another kind; classes and colours are the data set's."""

    def __init__(self, labelled, extra: LabelsFrom):
        self.labelled, self.extra = labelled, extra
        self.num_classes, self.ignore_index = labelled.num_classes, labelled.ignore_index
        self.class_names, self.palette = labelled.class_names, labelled.palette

    @property
    def files(self) -> list[tuple[str, str | None]]:
        """Those of both, where they lie in files."""
        return [pair for part in (self.labelled, self.extra) for pair in getattr(part, "files", [])]

    def __len__(self) -> int:
        return len(self.labelled) + len(self.extra)

    def is_extra(self, index: int) -> bool:
        """Whether this image is none of the data set."""
        return index >= len(self.labelled)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        return self.extra[index - len(self.labelled)] if self.is_extra(index) else self.labelled[index]

    def name(self, index: int) -> str:
        """As its part calls the image."""
        return self.extra.name(index - len(self.labelled)) if self.is_extra(index) else self.labelled.name(index)


class ImagesBelow(LabelledFiles):
    """Every image at any depth below a folder, without a label; `field` of the recipe names the folder."""

    def __init__(self, folder: str, field: str = "data.unlabelled.images"):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{field}: there is no folder {folder}")
        images = find_images(Path(folder))
        if not images:
            raise ValueError(f"{field}: no images below {folder}")
        self.names, self.files = list(images), [(image, None) for image in images.values()]


def labelled_indices(dataset, which: str, folder: str, seed: int, field: str = "data.labelled") -> list[int]:
    """Which images of a data set count as labelled, or are otherwise set apart, in the data set's order.

    Args:
        which: a fraction such as `1/8`, drawn with the seed (at least one image); the name of a published list in
            splits/<folder>/; or the path of a file with one image name a line, which may hold blanks.
        folder: the data set's folder of published lists.
        field: of the recipe, for errors.

    Raises:
        ValueError: a fraction outside 0..1, no such list, or a name on it that the data set does not have.
    """
    fraction = FRACTION.fullmatch(which)
    if fraction:
        part, whole = map(int, fraction.groups())
        if not 0 < part <= whole:
            raise ValueError(f"{field}: {which} is no fraction above 0 and at most 1")
        count = max(1, round(len(dataset) * part / whole))
        return sorted(np.random.default_rng(seed).permutation(len(dataset))[:count].tolist())
    if Path(which).exists() and not Path(which).is_dir():
        names = read_list(which, "one image name a line")
    else:
        try:
            names = published_split(folder, which)
        except ValueError as error:
            raise ValueError(
                f"{field}: {which!r} is no fraction such as 1/8 and no file of image names; {error}"
            ) from None
    index_of = {dataset.name(index): index for index in range(len(dataset))}
    unknown = [name for name in names if name not in index_of]
    if unknown:
        rule = "; a line is one name, blanks and all, without quotes" if " " in unknown[0] else ""
        raise ValueError(
            f"{field}: {which} names {excerpt(unknown[0])} ({len(unknown)} such names), which is not among the "
            f"training images; they have names like {excerpt(dataset.name(0))}{rule}"
        )
    return sorted({index_of[name] for name in names})
