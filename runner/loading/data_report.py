"""What the images and labels of a recipe hold: how often each class occurs, sizes, files that belong to nothing."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Dataset

from segkd.datasets._parts_of_a_set import Chosen
from segkd.runner.console import progress_bar
from segkd.runner.loading.sampler import start_worker
from segkd.runner.loading.waiting import wait_for_batches
from segkd.runner.recipe.schema import Recipe

ROWS = 40  # of classes in the table


@dataclass
class Counted:
    """What some items of a data set hold.

    Attributes:
        pixels, images: (256,) how many pixels have each id, and how many labels hold it.
        sizes: (height, width) of each image. total: how many images the data set has.
    """

    pixels: np.ndarray
    images: np.ndarray
    sizes: list[tuple[int, int]]
    total: int

    @property
    def words(self) -> str:
        """How many were read."""
        return f"all {self.total}" if len(self.sizes) == self.total else f"{len(self.sizes)} of the {self.total}"

    def shares(self, ids: slice | int) -> np.ndarray:
        """Of all pixels, the share that has an id."""
        return self.pixels[ids] / max(1, self.pixels.sum())


def sampled(dataset: Dataset, most: int | None) -> list[int]:
    """Up to so many images, drawn by their names: the same ones when others come or go."""
    if most is None or len(dataset) <= most:
        return list(range(len(dataset)))
    names = (dataset.name(index).encode("utf-8", "surrogateescape") for index in range(len(dataset)))
    digests = [hashlib.sha256(name).digest() for name in names]
    return sorted(sorted(range(len(dataset)), key=digests.__getitem__)[:most])


def count(dataset: Dataset, most: int | None, recipe: Recipe) -> Counted:
    """Reads up to so many images and labels, None for all. ValueError or OSError for one that cannot be read."""
    chosen = sampled(dataset, most)
    found = list(looks(Chosen(dataset, chosen), recipe, title="reading images"))
    histograms = np.stack([histogram for histogram, _ in found])  # (N, 256)
    return Counted(histograms.sum(0), (histograms > 0).sum(0), [size for _, size in found], len(dataset))


def looks(
    dataset: Dataset, recipe: Recipe, title: str, shown: bool = True
) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """(256,) how many pixels of a label have each id, and the (height, width) of its image, for each item.

    Args:
        title: of the progress bar. shown: on this process.

    Raises:
        ValueError, OSError: an item cannot be read.
    """
    loader = DataLoader(_Looks(dataset), batch_size=None, num_workers=recipe.data.workers, worker_init_fn=start_worker)
    found = wait_for_batches(loader, recipe.loop.timeout)
    for histogram, size in progress_bar(found, total=len(dataset), title=title, unit="images", shown=shown):
        yield np.asarray(histogram), tuple(size)


class _Looks(Dataset):
    """What `looks` gives of each item; of one that cannot be read, the error."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[np.ndarray, tuple[int, int]] | Exception:
        try:
            image, target = self.dataset[index]
            return np.array(target.histogram(), np.int64), image.size[::-1]
        except (ValueError, OSError) as error:
            return error  # travels as a value: torch would wrap it in the worker's traceback


def told_sizes(train: Counted, val: Counted) -> str:
    """The sizes of the images in a sentence."""
    sizes = sorted(train.sizes + val.sizes, key=lambda size: (size[0] * size[1], size))
    least, middle, largest = (f"{height}x{width}" for height, width in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    if least == largest and len(set(sizes)) == 1:
        return f"{least} (height x width), all images"
    other = sum(size != sizes[len(sizes) // 2] for size in sizes)
    return f"{least} to {largest} (height x width), median {middle}, from which {other} of {len(sizes)} images differ"


def told_classes(dataset: Dataset, train: Counted, val: Counted) -> Iterator[str]:
    """A table of the classes: share of the pixels and number of images, in both splits; of many, the ends."""
    yield f"{train.words} to train on | {val.words} to score: share of the pixels, and in how many images"
    names = list(dataset.class_names)
    order = list(range(len(names)))
    if len(names) > ROWS:
        order.sort(key=lambda index: -train.pixels[index])
        order[ROWS // 2 : -ROWS // 2] = [None]
    width = max(len("ignored"), *(len(name) for name in names))
    for index in [*order, dataset.ignore_index]:
        if index is None:
            yield f"... {len(names) - ROWS} classes between"
            continue
        name = names[index] if index < len(names) else "ignored"
        cells = (f"{one.shares(index):6.1%} {one.images[index]:6d}" for one in (train, val))
        yield f"{name:{width}} {' | '.join(cells)}"


def never_seen(dataset: Dataset, counted: Counted) -> list[str]:
    """The classes that no label holds."""
    return [name for name, images in zip(dataset.class_names, counted.images) if not images]


def told_files(train_set: Dataset, val_set: Dataset) -> Iterator[str]:
    """Sentences on images without labels and labels without images, as far as the data sets know of them."""
    sets = [_whole(train_set), _whole(val_set)]
    files = [file for one in sets for file in getattr(one, "files", [])]
    used = {path for file in files for path in file}
    without = [image for image, label in files if label is None]
    if without:
        yield f"images that have no label file: {len(without)}, such as {without[0]}"
    for kind, told in (("images", "have no label and are left out"), ("labels", "belong to no image")):
        left_out = [path for one in sets for path in getattr(one, f"{kind}_left_out", ()) if path not in used]
        if left_out:
            yield f"{kind} that {told}: {len(set(left_out))}, such as {left_out[0]}"


def _whole(dataset: Dataset) -> Dataset:
    """The data set that another one shows a part of."""
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset
