"""Very many images without labels, in tar files: which comes when, without a list of them, and reading one."""

import glob
import importlib
import itertools
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from segkd.datasets._files import read_image
from segkd.datasets._images import MAX_PIXELS
from segkd.datasets._shards import RULE, DamagedShard, Member, image_members, places_of_images
from segkd.runner.console import one_line
from segkd.runner.loading.content import checksum
from segkd.runner.recipe.seeds import seed_for

PLACES = 2**31  # blocks of the largest shard, which are 1 TiB
SCANNED = 16  # shards whose places are remembered
DAMAGED = 100  # images one behind the other, none of which can be read

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """Neighbours in an epoch, shuffled.

    Attributes:
        positions: where they stand in the endless list of epochs. indices: which images these are, in their order.
    """

    seed: int
    epoch: int
    positions: range
    indices: np.ndarray


class Shards(Dataset):
    """The images of tar files, each beside a target that is 0 everywhere.

    An epoch is all shards in an order drawn from (seed, epoch), the images of each in the order of their shard; every
    `shuffle` neighbours of it are then shuffled with draws from (seed, epoch, their number). So the order is a pure
    function of the seed and the list of shards, and nobody has to know more of it than the shards up to the images that
    are to be drawn. These are opened for the headers of their members, and how many images each has is written down in
    `folder`, so that whoever goes on in the middle of an epoch opens those again only that he reads from. Where the note
    is lost, the headers of the shards before are read once more.

    An image's index is its shard's number and its place in the shard, which is all that it takes to read it. An image
    that cannot be read is told of, written down in `folder`, and replaced by the next one in its shard that can.

    Args:
        pattern: paths of tar files, with WebDataset's braces or * and ?, see `shard_paths`.
        folder: of the notes of all lists of shards.
        max_pixels: height times width of the largest image that is read.

    Raises:
        FileNotFoundError: no such shard. ValueError: a pattern that is none.
    """

    def __init__(self, pattern: str, folder: Path, shuffle: int, max_pixels: int = MAX_PIXELS):
        self.pattern, self.shuffle, self.max_pixels = pattern, shuffle, max_pixels
        self.paths = shard_paths(pattern)
        self.stamps = np.array([_stamp(path) for path in self.paths])  # (shards, 2)
        self.notes = Notes(folder / checksum([os.path.abspath(path) for path in self.paths], self.stamps.tolist()))
        self.counts = self.notes.counts(len(self.paths))
        self.scanned: dict[int, np.ndarray] = {}
        self.window: Window | None = None

    def samples(self, positions: range, seed: int) -> list[tuple[int, int]]:
        """(epoch, index) of the images at these positions of the endless list of epochs.

        Raises:
            ValueError: no images, or what `places_of_images` refuses.
        """
        found = []
        for position in positions:
            window = self.window
            if window is None or seed != window.seed or position not in window.positions:
                window = self.window = self._window(position, seed)
            found.append((window.epoch, int(window.indices[position - window.positions.start])))
        return found

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        damaged = []
        for where, member in self._from(index):
            try:
                image = read_image(where, self.max_pixels, member.read())
            except ValueError as error:
                self.notes.tell(f"{error}")
                damaged.append(where)
                if len(damaged) == DAMAGED:
                    raise ValueError(
                        f"data.unlabelled.shards: {DAMAGED} images one behind the other cannot be read, from "
                        f"{damaged[0]} to {where}; what is wrong with each stands in {self.notes.damaged_file}"
                    ) from None
            else:
                return image, Image.new("L", image.size, 0)
        raise ValueError(f"data.unlabelled.shards: no image of {self.pattern} can be read")

    def name(self, index: int) -> str:
        """The image's shard and its name there."""
        return next(self._from(index))[0]

    def _from(self, index: int) -> Iterator[tuple[str, Member]]:
        """The images from one on, to the end of the last shard and on from the first, each with what it is called."""
        first, place = divmod(index, PLACES)
        for shard in itertools.chain(range(first, len(self.paths)), range(first + 1)):
            path = self._unchanged(shard)
            try:
                for member in image_members(path, place):
                    yield f"{path}, {member.name}", member
            except DamagedShard:
                pass  # told of when it was scanned
            place = 0

    def _window(self, position: int, seed: int) -> Window:
        """The window that a position lies in."""
        # as long as not all shards are known, this can be in the first epoch only
        epoch, offset, total = 0, position, self._ends(self._order(0, seed), position + 1)[-1]
        if offset >= total:
            epoch, offset = divmod(position, int(total))
        order, number = self._order(epoch, seed), offset // self.shuffle
        start = number * self.shuffle
        ends = self._ends(order, start + self.shuffle)
        stop = min(start + self.shuffle, int(ends[-1]))
        pieces = []
        for place in range(int(np.searchsorted(ends, start, side="right")), len(ends)):
            shard = int(order[place])
            begin = int(ends[place] - self.counts[shard])
            pieces.append(shard * PLACES + self._places(shard)[max(start - begin, 0) : stop - begin])
        rng = np.random.default_rng((seed_for(seed, "windows"), epoch, number))
        indices, first = rng.permutation(np.concatenate(pieces)), position - offset + start
        return Window(seed, epoch, range(first, first + len(indices)), indices)

    def _order(self, epoch: int, seed: int) -> np.ndarray:
        return np.random.default_rng((seed_for(seed, "shards"), epoch)).permutation(len(self.paths))

    def _ends(self, order: np.ndarray, wanted: int) -> np.ndarray:
        """How many images there are up to the end of each shard, in an order, until there are so many or no more."""
        ends, total = [], 0
        for shard in map(int, order):
            if self.counts[shard] < 0:
                self._places(shard)
            total += int(self.counts[shard])
            ends.append(total)
            if total >= wanted:
                break
        if not total:
            raise ValueError(
                f"data.unlabelled.shards: there is no image in {self.pattern} ({len(ends)} shards); a member is one if "
                f"{RULE}"
            )
        return np.array(ends)

    def _places(self, shard: int) -> np.ndarray:
        """The places of a shard's images."""
        if shard not in self.scanned:
            places, damage = places_of_images(self._unchanged(shard))
            if damage:
                self.notes.tell(f"{damage}; its first {len(places)} images are used")
            if self.counts[shard] not in (-1, len(places)):
                raise ValueError(
                    f"{self.paths[shard]}: has {len(places)} images, and {self.notes.counts_file} says "
                    f"{self.counts[shard]}; delete that file"
                )
            if self.counts[shard] < 0:
                self.counts[shard] = len(places)
                self.notes.count(shard, len(places))
            while len(self.scanned) >= SCANNED:
                del self.scanned[next(iter(self.scanned))]
            self.scanned[shard] = places
        return self.scanned[shard]

    def _unchanged(self, shard: int) -> str:
        """The path of a shard. ValueError where another file lies there than when the shards were listed, or none."""
        path = self.paths[shard]
        try:
            is_same = _stamp(path) == tuple(self.stamps[shard])
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise ValueError(f"{path}: has changed, or is gone, since the shards were listed; leave them as they are")
        return path


class Notes:
    """What has been found out of a list of shards: how many images each has, and which of them are damaged.

    Any number of processes write to the two files, a line at a time. A line that a kill has cut off is as good as none.
    """

    def __init__(self, folder: Path):
        self.counts_file, self.damaged_file = folder / "counts.jsonl", folder / "damaged.txt"
        self.told: set[str] = set()
        self.is_refused = False

    def counts(self, shards: int) -> np.ndarray:
        """(shards,) int64: images in each, -1 where nobody has counted them."""
        counts = np.full(shards, -1, np.int64)
        for line in self._lines(self.counts_file):
            try:
                shard, count = map(int, json.loads(line))
            except (ValueError, TypeError, OverflowError):
                continue
            if 0 <= shard < shards and 0 <= count < PLACES:
                counts[shard] = count
        return counts

    def count(self, shard: int, images: int) -> None:
        """Writes down how many images a shard has."""
        self._append(self.counts_file, json.dumps([shard, images]))

    def tell(self, damage: str) -> None:
        """Says once, whichever process and run finds it, that something is damaged and left out."""
        damage = one_line(damage)
        if damage in self.told:
            return
        known = set(self._lines(self.damaged_file))
        self.told |= known | {damage}
        if damage not in known:
            self._append(self.damaged_file, damage)
            log.warning("WARNING: %s; left out (number %d in %s)", damage, len(known) + 1, self.damaged_file)

    def _lines(self, file: Path) -> list[str]:
        try:
            return file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []

    def _append(self, file: Path, line: str) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "ab", buffering=0) as notes:
                notes.write(f"{line}\n".encode())
        except OSError as error:
            if not self.is_refused:
                log.warning("WARNING: %s: notes on shards are not kept: %s", file.parent, error.strerror or error)
            self.is_refused = True


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def shard_paths(pattern: str) -> list[str]:
    """The files of a pattern such as `shard-{000000..000099}.tar`, `{a,b}/*.tar` or `one.tar`, in its order.

    Raises:
        FileNotFoundError: no such file. ValueError: braces that are not closed, or the package webdataset is missing.
    """
    try:
        words = importlib.import_module("webdataset.shardlists").expand_urls(pattern)
    except ImportError:
        raise ValueError(
            'data.unlabelled.shards needs the package webdataset, which is not installed: pip install -e ".[shards]"'
        ) from None
    except ValueError as error:
        raise ValueError(f"data.unlabelled.shards: {one_line(str(error))}") from None
    paths: dict[str, None] = {}
    for word in words:
        found = [word] if os.path.exists(word) else sorted(glob.glob(word, recursive=True))
        if not found:
            raise FileNotFoundError(
                f"data.unlabelled.shards: there is no file {word}; shards are files of this machine"
            )
        paths |= dict.fromkeys(found)
    return [*paths]
