"""Tar files of images, packed as WebDataset does: where the images lie in one, and their bytes from any of them on."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ._files import IMAGE_SUFFIXES
from ._images import RefusedFile, open_regular

BLOCK = tarfile.BLOCKSIZE
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
RULE = f"what follows the first dot of its name is one of {', '.join(ending[1:] for ending in IMAGE_SUFFIXES)}"


class DamagedShard(ValueError):
    """A tar file that is none, or cannot be read to its end."""


@dataclass(frozen=True)
class Member:
    """An image in a tar file.

    Attributes:
        place: where its header begins, in blocks of 512 bytes.
        file: the tar file, open until the next member is asked for. start, size: of its bytes there.
    """

    name: str
    place: int
    file: BinaryIO
    start: int
    size: int

    def read(self) -> bytes:
        """The bytes of the image file."""
        self.file.seek(self.start)
        return self.file.read(self.size)


def image_members(path: str, place: int = 0) -> Iterator[Member]:
    """The images in a tar file from a place on, in its order; only their headers are read.

    A member is an image by its name, which WebDataset divides at its first dot: `0001.jpg` is one, and `0001.seg.png`
    beside it is something else that is known of the sample 0001.

    Raises:
        DamagedShard: behind the last member that is whole. ValueError: a compressed file, or none at all.
    """
    try:
        with open_regular(path) as file:
            if file.read(6).startswith(COMPRESSED):
                raise RefusedFile("is compressed, so that no image in it can be read by itself: unpack it to a .tar")
            size = os.fstat(file.fileno()).st_size
            file.seek(place * BLOCK)
            for member in _headers(file):
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("it is cut off")
                base, _, ending = os.path.basename(member.name).partition(".")
                if member.isreg() and base and f".{ending.lower()}" in IMAGE_SUFFIXES:
                    yield Member(member.name, member.offset // BLOCK, file, member.offset_data, member.size)
    except RefusedFile as error:
        raise ValueError(f"{path}: {error}") from None
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise DamagedShard(f"{path}: is no whole tar file, replace it ({error})") from None


def places_of_images(path: str) -> tuple[np.ndarray, str]:
    """(images,) int64, the places of a tar file's images, and what is wrong with the file behind them, or nothing.

    Raises:
        ValueError: a compressed file, or two images of one sample, of which one may be the label of the other.
    """
    places, before = [], Member("", 0, None, 0, 0)
    try:
        for member in image_members(path):
            if os.path.splitext(member.name)[0] == os.path.splitext(before.name)[0]:
                raise ValueError(
                    f"{path}: {before.name} and {member.name} are two images of one sample; pack each image once, and "
                    f"its label, if it has one, as <name>.seg.png"
                )
            places.append(member.place)
            before = member
    except DamagedShard as error:
        return np.array(places, np.int64), str(error)
    return np.array(places, np.int64), ""


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members from where a file stands. tarfile.TarError where the last one is not followed by the mark of the end."""
    tar = tarfile.TarFile(fileobj=file)
    while (member := tar.next()) is not None:
        tar.members.clear()  # it keeps them all
        yield member
    file.seek(tar.offset)
    if file.read(BLOCK) != bytes(BLOCK):  # of a damaged header in its middle, tarfile makes the end
        raise tarfile.ReadError("what follows its last whole member is neither a member nor the mark of its end")
