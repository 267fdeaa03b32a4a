"""Decoded pixels of a split's images in one flat file that any number of processes share, and images that lie in it.

A table with a record for each image stands before the pixels. An image gets its place under a lock; whoever finds it
without its mark fills it, and two who do so write the same bytes. The mark is written last, when the pixels are on the
disk, so that what a kill or a power cut has left behind is never read.
"""

import atexit
import fcntl
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

# 32 bytes, so that no record lies on two pages of the disk
RECORD = np.dtype(
    {
        "names": ["place", "height", "width", "checksum", "mark"],
        "formats": ["<u8", "<u4", "<u4", "<u4", "<u4"],
        "itemsize": 32,
    }
)
MARK = 0x58504753  # SGPX
PAGE = 4096

# how Pillow's ways to turn an image look from its rows and columns
TURNED = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda pixels: pixels[:, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda pixels: pixels[::-1],
    Image.Transpose.ROTATE_90: lambda pixels: np.rot90(pixels, 1),
    Image.Transpose.ROTATE_180: lambda pixels: np.rot90(pixels, 2),
    Image.Transpose.ROTATE_270: lambda pixels: np.rot90(pixels, 3),
}


class KeptImage:
    """An image or label map whose pixels lie in a mapped file: of a crop, only its rows are read.

    It has the methods of Pillow's Image that views call, and gives their pixels bit for bit; for all others it becomes
    such an image.

    Args:
        pixels: (H, W, 3) or (H, W) uint8, read only.
    """

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]
        self.size = self.width, self.height

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.pixels, dtype) if copy else np.asarray(self.pixels, dtype)

    def __getattr__(self, name: str):
        if name.startswith("_"):  # what libraries ask any object for, before there may be pixels
            raise AttributeError(name)
        return getattr(Image.fromarray(self.pixels), name)

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """The pixels from (left, top) to (right, bottom), which lie inside."""
        left, top, right, bottom = box
        return Image.fromarray(self.pixels[top:bottom, left:right])

    def transpose(self, method: Image.Transpose) -> "KeptImage":
        """The image mirrored or turned by quarters; nothing is read."""
        return KeptImage(TURNED[method](self.pixels))


class PixelFile:
    """The pixels of up to `images` images of any sizes.

    Args:
        channels: 3 (images) or 1 (label maps).
    """

    def __init__(self, path: Path, images: int, channels: int):
        self.path, self.images, self.channels = path, images, channels
        self.begin = _whole_pages(images * RECORD.itemsize)

    def read(self, index: int) -> np.ndarray | None:
        """(H, W, 3) or (H, W) uint8, mapped; None where they are not there."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                record = self._record(file, index)
                if record["mark"] != MARK:
                    return None
                return np.memmap(file, np.uint8, "r", int(record["place"]), self._shape(record))
        except (OSError, ValueError):  # none yet, one that cannot be read, or shorter than its table says
            return None

    def write(self, index: int, pixels: np.ndarray) -> None:
        """Keeps the pixels of an image.

        Raises:
            OSError: the disk is full, may not be written, or knows no locks.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.ascontiguousarray(pixels)
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            record = self._place_for(file, index, pixels)
            fcntl.lockf(file, fcntl.LOCK_UN)
            file.seek(int(record["place"]))
            file.write(pixels)
            file.flush()
            os.fdatasync(file.fileno())
            record["mark"] = MARK
            self._write_record(file, index, record)

    def filled(self) -> np.ndarray:
        """(images,) bool: whose pixels are there."""
        try:
            with open(self.path, "rb") as file:
                return self._table(file)["mark"] == MARK
        except OSError:
            return np.zeros(self.images, bool)

    def is_whole(self, index: int) -> bool:
        """Whether the pixels of an image are there and as they were written; damaged ones count as missing from now."""
        pixels = self.read(index)
        if pixels is None:
            return False
        with open(self.path, "r+b") as file:
            record = self._record(file, index)
            if zlib.crc32(pixels) == record["checksum"]:
                return True
            record["mark"] = 0
            self._write_record(file, index, record)
        return False

    def _place_for(self, file: BinaryIO, index: int, pixels: np.ndarray) -> np.void:
        """The record of an image, which has its place behind all others from now on."""
        table = self._table(file)
        record, (height, width) = table[index], pixels.shape[:2]
        if record["place"] == 0 or (record["height"], record["width"]) != (height, width):
            sizes = table["height"].astype(np.int64) * table["width"] * self.channels
            ends = table["place"].astype(np.int64) + sizes
            place = _whole_pages(max(self.begin, int(ends.max())))
            record["place"], record["height"], record["width"], record["mark"] = place, height, width, 0
        record["checksum"] = zlib.crc32(pixels)
        self._write_record(file, index, record)
        return record

    def _shape(self, record: np.void) -> tuple[int, ...]:
        shape = int(record["height"]), int(record["width"])
        return (*shape, self.channels) if self.channels > 1 else shape

    def _record(self, file: BinaryIO, index: int) -> np.void:
        assert 0 <= index < self.images
        found = os.pread(file.fileno(), RECORD.itemsize, index * RECORD.itemsize)
        return np.frombuffer(bytearray(found.ljust(RECORD.itemsize, b"\0")), RECORD)[0]

    def _write_record(self, file: BinaryIO, index: int, record: np.void) -> None:
        os.pwrite(file.fileno(), record.tobytes(), index * RECORD.itemsize)

    def _table(self, file: BinaryIO) -> np.ndarray:
        found = os.pread(file.fileno(), self.images * RECORD.itemsize, 0)
        return np.frombuffer(bytearray(found.ljust(self.images * RECORD.itemsize, b"\0")), RECORD)


def _whole_pages(size: int) -> int:
    """The next place, in bytes, at which a page of the disk begins."""
    return -(-size // PAGE) * PAGE


def hold(path: Path) -> None:
    """Keeps a file in memory (/dev/shm) until no process holds it any more; the last one to end removes it.

    Others of its folder that nobody holds, left behind by a kill, are removed, too.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        file = open(path, "a+b")
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_nlink:
            break
        file.close()  # the last one to hold it has removed it in the meantime
    atexit.register(_let_go, path, file)
    for other in path.parent.glob("*.bin"):
        if other != path:
            with open(other, "rb") as left_behind:
                _let_go(other, left_behind)


def _let_go(path: Path, file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    file.close()
