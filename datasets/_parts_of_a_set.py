"""A data set divided into images with and without labels, and images that never had any."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from ._files import LabelledFiles, excerpt, find_images, published_split, read_list

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

    def stamp(self, index: int) -> tuple[str | int, ...]:
        """The data set's stamp of the image."""
        return self.dataset.stamp(index)


class ImagesBelow(LabelledFiles):
    """Every image at any depth below a folder, without a label."""

    def __init__(self, folder: str):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"data.unlabelled.images: there is no folder {folder}")
        images = find_images(Path(folder))
        if not images:
            raise ValueError(f"data.unlabelled.images: no images below {folder}")
        self.names, self.files = list(images), [(image, None) for image in images.values()]


def labelled_indices(dataset, which: str, folder: str, seed: int) -> list[int]:
    """Which images of a data set count as labelled, in the data set's order.

    Args:
        which: a fraction such as `1/8`, drawn with the seed (at least one image); the name of a published list in
            splits/<folder>/; or the path of a file with one image name a line, which may hold blanks.
        folder: the data set's folder of published lists.

    Raises:
        ValueError: a fraction outside 0..1, no such list, or a name on it that the data set does not have.
    """
    fraction = FRACTION.fullmatch(which)
    if fraction:
        part, whole = map(int, fraction.groups())
        if not 0 < part <= whole:
            raise ValueError(f"data.labelled: {which} is no fraction above 0 and at most 1")
        count = max(1, round(len(dataset) * part / whole))
        return sorted(np.random.default_rng(seed).permutation(len(dataset))[:count].tolist())
    if Path(which).exists() and not Path(which).is_dir():
        names = read_list(which, "one image name a line")
    else:
        try:
            names = published_split(folder, which)
        except ValueError as error:
            raise ValueError(
                f"data.labelled: {which!r} is no fraction such as 1/8 and no file of image names; {error}"
            ) from None
    index_of = {dataset.name(index): index for index in range(len(dataset))}
    unknown = [name for name in names if name not in index_of]
    if unknown:
        rule = "; a line is one name, blanks and all, without quotes" if " " in unknown[0] else ""
        raise ValueError(
            f"data.labelled: {which} names {excerpt(unknown[0])} ({len(unknown)} such names), which is not among the "
            f"training images; they have names like {excerpt(dataset.name(0))}{rule}"
        )
    return sorted({index_of[name] for name in names})
