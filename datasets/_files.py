"""Finding, reading and checking the files of a dataset: one sentence for everything that can be wrong with them."""

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

IGNORE_INDEX = 255
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

# what Pillow raises for a file that is cut off or is no image at all, depending on where the damage sits
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


def require_folder(path: str | Path, layout: str) -> Path:
    """`path` if it is a folder, else FileNotFoundError with the layout the dataset expects."""
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder. Expected layout: {layout}")
    return path


def require_split(split: str, splits: Iterable[str]) -> str:
    """`split` if it is one of `splits`, else ValueError with the list."""
    splits = tuple(splits)
    if split not in splits:
        raise ValueError(f"split: no split called {split!r}; there are: {', '.join(splits)}")
    return split


def find_images(folder: Path, suffix: str = "") -> dict[str, str]:
    """Every image at any depth below `folder`: key -> path, sorted by key.

    The key is the path relative to `folder` without `suffix` and the file ending; files whose stem does not end in
    `suffix` are left out. Two files with one key (`a.png` beside `a.jpg`) are a ValueError.
    """
    found: dict[str, str] = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() not in IMAGE_SUFFIXES or not stem.endswith(suffix) or name.startswith("."):
                continue
            path = os.path.join(parent, name)
            key = os.path.relpath(os.path.join(parent, stem.removesuffix(suffix)), folder).replace(os.sep, "/")
            if key in found:
                raise ValueError(f"{path} and {found[key]}: two images of one name; keep one of them")
            found[key] = path
    return dict(sorted(found.items()))


def require_images(folder: str | Path, layout: str, suffix: str = "") -> dict[str, str]:
    """`find_images` of a folder that must exist and hold some, else an error with the layout that is expected."""
    images = find_images(require_folder(folder, layout), suffix)
    if not images:
        called = f" whose name ends in {suffix!r}" if suffix else ""
        raise ValueError(f"{folder}: no images{called}. Expected layout: {layout}")
    return images


def pair_labels(images: Mapping[str, str], folder: str | Path, layout: str, suffix: str = "") -> list[tuple[str, str]]:
    """(image, label) paths of every key of `images`, the label being that of the same key below `folder`."""
    labels = find_images(require_folder(folder, layout), suffix)
    for key, image in images.items():
        if key not in labels:
            raise FileNotFoundError(f"{image}: its label {folder}/{key}{suffix}.png does not exist")
    return [(image, labels[key]) for key, image in images.items()]


def read_list(path: str | Path, layout: str) -> list[str]:
    """The non-empty lines of a text file, stripped, in its own order; a missing or empty file is an error."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list. Expected layout: {layout}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path}: the list is empty")
    return lines


def published_split(dataset: str, name: str) -> list[str]:
    """The ids of a list that comes with segkd, e.g. `published_split("cityscapes", "1_8")`."""
    folder = Path(__file__).parent / "splits" / dataset
    names = sorted(path.stem for path in folder.glob("*.txt"))
    if name not in names:
        raise ValueError(f"{dataset}: no published list called {name!r}; there are: {', '.join(names) or 'none'}")
    return read_list(folder / f"{name}.txt", "")


def lookup_table(mapping: Mapping[int, int], ignore: Iterable[int] = (IGNORE_INDEX,)) -> tuple[int, ...]:
    """256 entries: raw id of a label file -> train id, 255 for those in `ignore`, -1 for ids that must not occur."""
    table = [-1] * 256
    for raw, train_id in [*mapping.items(), *((raw, IGNORE_INDEX) for raw in ignore)]:
        table[raw] = train_id
    return tuple(table)


def read_image(path: str) -> Image.Image:
    """The decoded image in mode RGB (grey, palette and CMYK files are converted)."""
    return as_rgb(_decode(path))


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB; 16-bit grey keeps its upper 8 bits, which Pillow would clip to white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    # convert() copies even when there is nothing to do: 6 MB an image at 1024x2048
    return image if image.mode == "RGB" else image.convert("RGB")


def read_label(path: str, table: tuple[int, ...], rule: str) -> Image.Image:
    """The label file as train ids, mode L.

    Args:
        path: an image with one channel of ids. A palette image is read as its indices: its colours mean nothing.
        table: what `lookup_table` returns.
        rule: which ids are allowed, in words, for the error.
    """
    label = _decode(path)
    if label.mode not in ("L", "P"):
        label = _single_channel(label, path)
    # one pass over the raw ids finds every mistake; a histogram costs 1 ms at 1024x2048
    histogram = label.histogram()
    wrong = [raw for raw, count in enumerate(histogram) if count and table[raw] < 0]
    if wrong:
        shown = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
        raise ValueError(f"{path}: label ids {shown} are not allowed; {rule}")
    if label.mode == "L" and all(table[raw] == raw for raw, count in enumerate(histogram) if count):
        return label
    return label.point([max(train_id, 0) for train_id in table], "L")


class LabelledFiles:
    """A data set of images and labels in files: its length, its items, and the names of its images.

    Attributes:
        names: of the images. files: their paths and those of their labels, None where these are not public.
        table, rule: how label files are read, see `read_label`.

    Raises:
        FileNotFoundError: a folder, list or image is missing, or an image has no label.
        ValueError: unknown split, nothing found, and on access an unreadable file, an id or a size that is wrong.
    """

    ignore_index = IGNORE_INDEX
    names: list[str]
    files: list[tuple[str, str | None]]
    table: tuple[int, ...]
    rule: str

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        image_path, label_path = self.files[index]
        image = read_image(image_path)
        if label_path is None:
            return image, Image.new("L", image.size, IGNORE_INDEX)
        target = self.read_target(label_path)
        if image.size != target.size:
            raise ValueError(
                f"{image_path} is {image.height}x{image.width} but its label {label_path} is "
                f"{target.height}x{target.width} (height x width); they must be of one size"
            )
        return image, target

    def read_target(self, path: str) -> Image.Image:
        """The label file as train ids, mode L."""
        return read_label(path, self.table, self.rule)

    def name(self, index: int) -> str:
        """What the image is called in lists of images and in files made for it."""
        return self.names[index]


def _decode(path: str) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: the file was there when the dataset was listed and is gone now") from None
    except UNDECODABLE as error:
        raise ValueError(f"{path}: cannot be decoded (truncated?), replace the file; Pillow says: {error}") from error
    return image


def _single_channel(label: Image.Image, path: str) -> Image.Image:
    """One-bit and 16 or 32-bit files as mode L; colours and ids above 255 are refused."""
    ids = np.asarray(label)
    if ids.ndim != 2 or not (ids.dtype == bool or np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(
            f"{path}: a label holds one id a pixel (mode L or P), this file has mode {label.mode}; "
            "labels made of colours are read by the folder dataset with colors: true"
        )
    if ids.size and (ids.min() < 0 or ids.max() > 255):
        raise ValueError(f"{path}: label ids reach from {ids.min()} to {ids.max()}; they must lie in 0..255")
    return Image.fromarray(ids.astype(np.uint8))
