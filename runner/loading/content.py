"""What tells the images and labels of a data set from all others, without reading them."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator

import PIL
from torch.utils.data import Dataset

PILLOW = PIL.__version__  # what decodes and resizes images: another version may make other pixels of the same files
PLAIN = (str, bytes, int, float, type(None), dict, list, tuple)


def stamp_of(dataset: Dataset, index: int) -> list[tuple]:
    """What tells the image, and its label, from all others: of a file, its path, size and times of change."""
    files = getattr(dataset, "files", None)
    if files is None:
        return [dataset.stamp(index)] * 2
    return [_stamp_of_file(path) for path in files[index] if path is not None]


def _stamp_of_file(path: str) -> tuple[str, int, int, int]:
    try:
        found = os.stat(path)
    except OSError:  # whoever reads it says what is wrong
        return os.path.abspath(path), 0, 0, 0
    return os.path.abspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns


def known_to(dataset: Dataset) -> dict:
    """What a data set knows besides the files of its images: its classes, and how labels are read or drawn.

    Objects of other libraries are left out: a table of Hugging Face's is told by the stamps of its rows.
    """
    while hasattr(dataset, "dataset"):  # parts of a set
        dataset = dataset.dataset
    known = {name: getattr(dataset, name, None) for name in ("class_names", "ignore_index", "table")} | vars(dataset)
    return {
        name: value
        for name, value in known.items()
        if name not in ("files", "names", "images_left_out", "labels_left_out", "max_pixels")
        and (isinstance(value, PLAIN) or dataclasses.is_dataclass(value))
    }


def checksum(*values: object) -> str:
    """16 hexadecimal digits that stand for plain values."""
    digest = hashlib.sha256()
    for part in _flat(values):
        digest.update(part + b"\n")
    return digest.hexdigest()[:16]


def _flat(value: object) -> Iterator[bytes]:
    """Plain values, however deep in lists and tables, as bytes."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = [*value.items()]
    if isinstance(value, (list, tuple)):
        yield b"%d" % len(value)
        for one in value:
            yield from _flat(one)
    else:
        plain = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogateescape")
        yield b"%d:%b" % (len(plain), plain)
