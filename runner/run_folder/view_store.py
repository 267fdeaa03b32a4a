"""What is kept of a network on views that come again: a folder of flat files that any number of processes share.

A payload is a pure function of its place, so nobody waits for anybody: two who write the same place write the same
bytes. Each has a header with its checksum, which is written after it. A payload without a header, cut off by a kill or
damaged later is as good as none.
"""

import hashlib
import json
import logging
import os
import tempfile
import zlib
from io import FileIO
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

HEADER = np.dtype([("mark", "<u4"), ("checksum", "<u4")])
MARK = 0x564B4753  # SGKV
DESCRIPTION = "description.json"


class ViewFile:
    """Payloads of one size in one file, view after view: the headers of all its images, then their payloads.

    Empty places take no room on the disk, and a file of fewer views is the beginning of one of more.

    Args:
        images, views: how many images, and views of each, there are. size: bytes of a payload.
    """

    def __init__(self, path: Path, images: int, views: int, size: int):
        self.path, self.images, self.views, self.size = path, images, views, size
        self.file: FileIO | None = None
        self.has_told = False

    @property
    def whole_size(self) -> int:
        """Bytes of the file when every place is filled."""
        return self.views * self._block

    def read(self, image: int, view: int, row: np.ndarray) -> bool:
        """Fills `row`, (size,) uint8, with the payload of a place; False where there is none, or a damaged one."""
        if not self._open():
            return False
        at, start = self._places(image, view)
        header = os.pread(self.file.fileno(), HEADER.itemsize, at)
        mark, checksum = np.frombuffer(header.ljust(HEADER.itemsize, b"\0"), HEADER)[0]
        if mark != MARK:
            return False
        if os.preadv(self.file.fileno(), [row], start) == self.size and zlib.crc32(row) == checksum:
            return True
        if not self.has_told:
            logger.warning("%s: an entry is damaged (its checksum differs); such are made anew", self.path)
            self.has_told = True
        return False

    def write(self, image: int, view: int, payload: np.ndarray) -> None:
        """Fills a place with (size,) uint8; the folder must be there."""
        if not self._open(create=True):
            raise PermissionError(f"{self.path} may only be read here, and it lacks entries; fill it where it was made")
        at, start = self._places(image, view)
        self._write_all(payload, start)
        # last: until it is there, nobody reads what it stands for
        self._write_all(np.array([(MARK, zlib.crc32(payload))], HEADER), at)

    def filled(self) -> np.ndarray:
        """(images, views) bool: which places have a payload; whether it is whole shows when it is read."""
        found = np.zeros((self.images, self.views), bool)
        for view in range(self.views) if self._open() else ():
            table = os.pread(self.file.fileno(), HEADER.itemsize * self.images, view * self._block)
            marks = np.frombuffer(table[: len(table) // HEADER.itemsize * HEADER.itemsize], HEADER)["mark"]
            found[: len(marks), view] = marks == MARK
        return found

    @property
    def _block(self) -> int:
        """Bytes of one view of all images."""
        return self.images * (HEADER.itemsize + self.size)

    def _places(self, image: int, view: int) -> tuple[int, int]:
        """Where the header stands in the file, and where the payload begins."""
        assert 0 <= image < self.images and 0 <= view < self.views
        first = view * self._block
        return first + HEADER.itemsize * image, first + HEADER.itemsize * self.images + self.size * image

    def _write_all(self, values: np.ndarray, start: int) -> None:
        rest = memoryview(values).cast("B")
        while rest:
            written = os.pwrite(self.file.fileno(), rest, start)
            rest, start = rest[written:], start + written

    def _open(self, create: bool = False) -> bool:
        """Whether the file is open, for writing too if it is to be; it may be made by another process at any time."""
        if self.file is None and (create or self.path.exists()):
            may_write = not self.path.exists() or os.access(self.path, os.W_OK)
            flags = os.O_RDWR | os.O_CREAT if may_write else os.O_RDONLY
            descriptor = os.open(self.path, flags, 0o666)
            self.file = FileIO(descriptor, "r+" if may_write else "r")
        return self.file is not None and (self.file.writable() or not create)


class ViewStore:
    """The kept maps of one network on the views of one stream of images, a file for each map.

    Args:
        above: the folder that the store's own lies in, under its key.
        description: all that the maps are a function of, but for image and view; the key is its checksum.
        files: map -> name of its file, bytes of a view. images, views: how many images, and views of each, there are.

    Raises:
        ValueError: another description stands where this one's maps would lie.
    """

    def __init__(self, above: Path, description: dict, files: dict[str, tuple[str, int]], images: int, views: int):
        self.text = json.dumps(description, indent=1, sort_keys=True) + "\n"
        self.folder = above / hashlib.sha256(self.text.encode()).hexdigest()[:16]
        self.images, self.views = images, views
        self.files = {
            name: ViewFile(self.folder / f"{file}.bin", images, views, size) for name, (file, size) in files.items()
        }
        self.is_described = False
        described = self.folder / DESCRIPTION
        if described.exists() and described.read_bytes() != self.text.encode():  # a damaged one may be no text
            raise ValueError(
                f"{described} describes other maps than its folder's name stands for; delete {self.folder}"
            )

    @property
    def view_size(self) -> int:
        """Bytes of one view of one image."""
        return sum(file.size for file in self.files.values())

    @property
    def whole_size(self) -> int:
        """Bytes when every view is there."""
        return sum(file.whole_size for file in self.files.values())

    def missing_size(self) -> int:
        """Bytes of what is not there yet."""
        return sum(file.size * int(np.count_nonzero(~file.filled())) for file in self.files.values())

    def filled(self) -> np.ndarray:
        """(images, views) bool: of which views all maps are there."""
        return np.all([file.filled() for file in self.files.values()], axis=0)

    def read(self, image: int, view: int, rows: dict[str, np.ndarray]) -> bool:
        """Fills `rows`, (size,) uint8 by name, with all maps of a view; False where one is not there, or damaged."""
        return all(file.read(image, view, rows[name]) for name, file in self.files.items())

    def write(self, image: int, view: int, rows: dict[str, np.ndarray]) -> None:
        """Keeps all maps of a view."""
        if not self.is_described:
            self._describe()
        for name, file in self.files.items():
            file.write(image, view, rows[name])

    def _describe(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / DESCRIPTION).exists():
            # of its own name: several processes may do this at once
            descriptor, partial = tempfile.mkstemp(dir=self.folder, prefix=".description")
            with open(descriptor, "w") as file:
                file.write(self.text)
            os.chmod(partial, 0o644)
            os.replace(partial, self.folder / DESCRIPTION)
        self.is_described = True
