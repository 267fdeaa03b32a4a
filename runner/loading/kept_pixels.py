"""A data set whose images and label maps are decoded once, and read from memory or the disk from then on."""

import logging
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from segkd.runner.console import progress_bar
from segkd.runner.loading.around import Around
from segkd.runner.loading.content import PILLOW, checksum, known_to, stamp_of
from segkd.runner.loading.pixel_file import KeptImage, PixelFile, hold
from segkd.runner.loading.sampler import start_worker
from segkd.runner.loading.waiting import wait_for_batches
from segkd.runner.recipe.schema import Data, Recipe

log = logging.getLogger(__name__)

# to be raised whenever the same files would be decoded to other pixels than before
FORMAT = 1
GIB = 2**30
MEMORY = Path(f"/dev/shm/segkd-{os.getuid()}")
SETTLED = 2.0  # seconds, as coarse as the clocks of file systems are
SAMPLED = 8  # images whose sizes stand for those of all

Pixels = Image.Image | KeptImage


class KeptPixels(Around):
    """A data set whose items lie, once they have been decoded, in two files: the images, and their labels as train ids.

    A file's name has a checksum of all that its pixels are a function of: of each image's file its path, size and times
    of change, and for labels what the data set knows of its classes, too. So another content has another file, as long
    as the file system notes its time: an image that has changed since the data set was listed, or within the last two
    seconds, is read and not kept. All else is the data set's own.

    Args:
        folder: of the files. name: what they are called before the checksum.
    """

    def __init__(self, dataset: Dataset, folder: Path, name: str):
        super().__init__(dataset)
        self.stamps = [stamp_of(dataset, index) for index in range(len(dataset))]
        has_labels = any(label is not None for _, label in getattr(dataset, "files", [("", "")]))
        decoder = FORMAT, PILLOW
        images = checksum(decoder, [stamp[0] for stamp in self.stamps])
        self.images = PixelFile(folder / f"{name}-images-{images}.bin", len(dataset), 3)
        self.labels: PixelFile | None = None  # an empty map is made faster than it is read
        if has_labels:
            labels = checksum(decoder, self.stamps, known_to(dataset))
            self.labels = PixelFile(folder / f"{name}-labels-{labels}.bin", len(dataset), 1)
        self.refusal = ""

    @property
    def pixel_files(self) -> list[PixelFile]:
        """That of the images, and of the labels where there are any."""
        return [self.images] if self.labels is None else [self.images, self.labels]

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels]:
        kept = [file.read(index) for file in self.pixel_files]
        if any(pixels is None for pixels in kept):
            return self._decode(index)
        image = KeptImage(kept[0])
        return image, self.dataset.target(index, image.size) if self.labels is None else KeptImage(kept[1])

    def is_whole(self, index: int) -> bool:
        """Whether the pixels of an item are there and not damaged."""
        return all([file.is_whole(index) for file in self.pixel_files])

    def missing(self) -> np.ndarray:
        """Which items are not there yet."""
        return np.flatnonzero(~np.all([file.filled() for file in self.pixel_files], axis=0))

    def missing_size(self) -> int:
        """Bytes that the missing items take, by the sizes of some of them."""
        missing = self.missing()
        places = np.linspace(0, len(missing) - 1, min(SAMPLED, len(missing))).round().astype(int)
        areas = [image.width * image.height for image in map(self._image, missing[places]) if image is not None]
        return round(np.mean(areas or [0])) * len(missing) * sum(file.channels for file in self.pixel_files)

    def described(self) -> str:
        """A line on how much there is, and where."""
        size = sum(file.path.stat().st_size for file in self.pixel_files if file.path.exists())
        there = len(self) - len(self.missing())
        return f"{there} of {len(self)} images, {size / GIB:.3g} GiB, in {self.images.path.parent}"

    def _image(self, index: int) -> Pixels | None:
        try:
            return self[int(index)][0]
        except (ValueError, OSError):  # whoever needs it says what is wrong
            return None

    def _decode(self, index: int) -> tuple[Image.Image, Image.Image]:
        """An item as the data set makes it, kept where it may be."""
        item = self.dataset[index]
        if not self.refusal and self._is_settled(index):
            try:
                for file, pixels in zip(self.pixel_files, item):
                    if file.read(index) is None:  # of other classes, the images are there
                        file.write(index, np.asarray(pixels))
            except OSError as error:
                self.refusal = f"{self.images.path.parent}: pixels are not kept from now on: {error.strerror or error}"
                log.warning("WARNING: %s", self.refusal)
        return item

    def _is_settled(self, index: int) -> bool:
        """Whether the item's files are those that were listed, and would not look the same after another change."""
        if not hasattr(self.dataset, "files"):
            return True
        stamp = stamp_of(self.dataset, index)
        changed = max(changed for *_, changed in stamp)
        return stamp == self.stamps[index] and changed < (time.time() - SETTLED) * 1e9


def keep_pixels(dataset: Dataset, data: Data, folder: str, split: str) -> Dataset:
    """The data set with its pixels kept as `data.cache` says; as it is where that says nothing.

    Args:
        folder: of all runs. split: what the images are called in the names of files.
    """
    if data.cache is None:
        return dataset
    where = MEMORY if data.cache == "ram" else Path(data.cache_folder or Path(folder) / "pixel_cache")
    kept = KeptPixels(dataset, where, re.sub(r"[^\w.-]+", "_", f"{data.dataset}-{split}")[:100])
    for file in kept.pixel_files if data.cache == "ram" else ():
        hold(file.path)
    return kept


def kept_sets(*datasets: Dataset | None) -> list[KeptPixels]:
    """The data sets with kept pixels that these are parts of, each once."""
    found: dict[int, KeptPixels] = {}
    for dataset in datasets:
        while dataset is not None:
            if isinstance(dataset, KeptPixels):
                found[id(dataset)] = dataset
            dataset = getattr(dataset, "dataset", None)
    return list(found.values())


def require_room(recipe: Recipe, *datasets: Dataset | None) -> None:
    """ValueError where the pixels that are still to be kept are more than what is free."""
    kept = kept_sets(*datasets)
    if not kept:
        return
    folder, in_memory = kept[0].images.path.parent, recipe.data.cache == "ram"
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if in_memory:
        free = min(free, _available_memory())
    missing = sum(one.missing_size() for one in kept)
    if missing > free:
        cure = "take disk" if in_memory else "make room, give another data.cache_folder"
        raise ValueError(
            f"data.cache: {recipe.data.cache}: the decoded pixels of {sum(map(len, kept))} images still need about "
            f"{missing / GIB:.3g} GiB, and {'memory' if in_memory else there} has {free / GIB:.3g} free; {cure} or do "
            f"without (data.cache=null)"
        )


def fill_pixels(kept: KeptPixels, recipe: Recipe, rank: int, world: int) -> None:
    """Decodes what is not there, or damaged, each process its share; a stop loses nothing, the next call goes on.

    Raises:
        ValueError, OSError: an image cannot be read, or its pixels cannot be kept.
    """
    share = _Filling(kept, list(range(rank, len(kept), world)))
    loader = DataLoader(share, batch_size=None, num_workers=recipe.data.workers, worker_init_fn=start_worker)
    done = wait_for_batches(loader, recipe.loop.timeout)
    for _ in progress_bar(done, total=len(share), title="pixels", unit="images", shown=rank == 0):
        pass


class _Filling(Dataset):
    """The indices of a data set with kept pixels, each decoded and kept when it is asked for."""

    def __init__(self, kept: KeptPixels, indices: list[int]):
        self.kept, self.indices = kept, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> int | Exception:
        index = self.indices[position]
        try:
            if not self.kept.is_whole(index):
                self.kept[index]
        except (ValueError, OSError) as error:
            return error  # travels as a value: torch would wrap it in the worker's traceback
        return OSError(self.kept.refusal) if self.kept.refusal else index


def _available_memory() -> int:
    """Bytes that may be used without others being swapped out."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
