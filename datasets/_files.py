"""Finding, reading and checking the files of a dataset: one sentence for everything that can be wrong with them."""

import hashlib
import json
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Interval
from PIL import Image

from ._images import (
    MAX_PIXELS,
    TURNS,
    UNDECODABLE,
    RefusedFile,
    as_ids,
    as_rgb,
    open_image,
    open_regular,
    orientation,
    pages,
)

IGNORE_INDEX = 255
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")

LARGEST_LIST = 100_000_000  # bytes

Share = Annotated[float, Interval(gt=0, lt=1)]


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


def drawn_split(names: Sequence[str], split: str, val: float | None, place: str = "") -> list[int]:
    """Which images of a data set without splits belong to `train` or `val`; all of them where `val` is None.

    The SHA-256 of an image's name decides, so that it stays where it is when others come or go.

    Args:
        val: share of the images that are scored, on average.
        place: what tells where the images are, as the recipe writes it.

    Raises:
        ValueError: another split, or one that gets no image; a place that is another one for each split.
    """
    if val is None:
        return list(range(len(names)))
    if "{split}" in place:
        told = f"val: {val:g} divides images that are in one place, and {place!r} is another one for each split"
        raise ValueError(f"{told}; leave val out, or write a name in place of {{split}}")
    is_val = require_split(split, ("train", "val")) == "val"
    digests = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    shares = [int.from_bytes(digest[:8], "big") / 2**64 for digest in digests]
    kept = [index for index, share in enumerate(shares) if (share < val) == is_val]
    if not kept:
        told = f"val: {val:g} leaves none of the {len(names)} images for {split}, as their names are drawn"
        raise ValueError(f"{told}; take another share, or divide them into folders")
    return kept


def find_images(folder: Path, suffix: str = "") -> dict[str, str]:
    """Every image at any depth below `folder`: key -> path, sorted by key.

    The key is the path relative to `folder`, as `written_alike` gives it, without `suffix` and the file ending; files
    whose stem does not end in `suffix` are left out. Two files with one key (`a.png` beside `a.jpg`) are a ValueError.
    """
    found: dict[str, str] = {}
    for parent, name in files_below(folder):
        stem, ending = os.path.splitext(name)
        if ending.lower() not in IMAGE_SUFFIXES or not stem.endswith(suffix) or name.startswith("."):
            continue
        path = os.path.join(parent, name)
        key = written_alike(os.path.relpath(os.path.join(parent, stem.removesuffix(suffix)), folder))
        refuse_second(found.setdefault(key, path), path)
    return dict(sorted(found.items()))


def refuse_second(first: str, path: str) -> None:
    """ValueError where two files have the name of one image."""
    if path != first:
        raise ValueError(f"{path} and {first}: two images of one name; keep one of them")


def written_alike(path: str) -> str:
    """One way to write a relative path: slashes, no detours, and an accent one character with its letter (NFC).

    A file that was packed on a Mac has them as two, and a list of names from elsewhere has not; Windows writes
    backslashes.
    """
    return unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/")))


def image_names(paths: Iterable[str], name: Callable[[str], str] = lambda path: path.replace("/", "_")) -> list[str]:
    """What images are called, by their paths: with folders joined by underscores, or as `name` makes it of one.

    Labels that are made for images, and lists of them, go by these names, so each image has one of its own: where two
    paths would give the same one (`a/b_c` and `a_b/c`), a checksum of the path follows. A path that comes twice has its
    name twice.
    """
    paths = list(paths)
    called = {path: name(path) for path in paths}
    count = Counter(called.values())
    for path, word in called.items():
        if count[word] > 1:
            called[path] = f"{word}-{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return [called[path] for path in paths]


def name_of_file(path: str) -> str:
    """The name of an image by its path with its ending: without, folders joined by underscores."""
    return os.path.splitext(path)[0].replace("/", "_")


def paths_below(folder: str | Path, endings: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, str]:
    """Every file at any depth below `folder` with such an ending: relative path, as `written_alike` -> path.

    Hidden ones, as Macs put beside others when they pack a folder, are none.
    """
    names = ((parent, name) for parent, name in files_below(folder) if not name.startswith("."))
    found = (os.path.join(parent, name) for parent, name in names if name.lower().endswith(endings))
    return {written_alike(os.path.relpath(path, folder)): path for path in found}


def files_below(folder: str | Path) -> Iterator[tuple[str, str]]:
    """(folder, name) of each file at any depth, in order, but of none in hidden folders below.

    A link to a folder around itself is not followed.
    """
    above = {str(folder): {_identity(folder)}}  # path of a folder -> itself and those around it
    for parent, folders, names in os.walk(folder, followlinks=True):
        around = above.pop(parent, set())
        shown = sorted(name for name in folders if not name.startswith("."))
        below = {name: _identity(os.path.join(parent, name)) for name in shown}
        folders[:] = [name for name, identity in below.items() if identity not in around]
        above |= {os.path.join(parent, name): around | {below[name]} for name in folders}
        for name in sorted(names):
            yield parent, name


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


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


def read_text(path: str | Path, largest: int | None = LARGEST_LIST) -> str:
    """The content of a text file of at most so many bytes. ValueError where it is none."""
    try:
        with open_regular(path) as file:
            content = file.read() if largest is None else file.read(largest + 1)
    except RefusedFile as error:
        raise ValueError(f"{path}: {error}") from None
    if largest is not None and len(content) > largest:
        raise ValueError(f"{path}: is too large for a list, which has up to {largest:,} bytes")
    try:
        return content.decode("utf-8-sig")  # Windows' editors begin a text with a mark of its encoding
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no list: it holds other bytes than text (UTF-8)") from None


def read_list(path: str | Path, layout: str) -> list[str]:
    """The non-empty lines of a text file, stripped, in its own order; a missing or empty file is an error."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such list. Expected layout: {layout}")
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path}: the list is empty")
    return lines


def read_json(path: str | Path, layout: str) -> dict:
    """What a JSON file holds, which must be one object: {...}."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file. Expected layout: {layout}")
    text = read_text(path, largest=None)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # not only of JSON: a number may have more digits than Python reads
        raise ValueError(f"{path}: is no JSON (cut off?): {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected an object, {{...}}, and it is a {type(found).__name__}")
    return found


def entry(found: object, name: str, kind: type | tuple[type, ...], where: str) -> object:
    """`found[name]`, an entry of what a file says. ValueError where it is missing or of another kind."""
    value = found.get(name) if isinstance(found, dict) else None
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number"}
        wanted = " or ".join(words[one] for one in kinds)
        raise ValueError(f"{where}: {name!r} must be {wanted}, and is {excerpt(json.dumps(value, default=str))}")
    return value


def excerpt(text: str) -> str:
    """What a file says, as a sentence may repeat it: quoted, escaped, its first 60 letters."""
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}..."


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
        assert table[raw] in (-1, train_id), f"id {raw} is both {table[raw]} and {train_id}"
        table[raw] = train_id
    return tuple(table)


def read_image(path: str, max_pixels: int = MAX_PIXELS, content: bytes | None = None) -> Image.Image:
    """The image in mode RGB, see `as_rgb`.

    Args:
        content: the file's bytes, where they lie in another file and `path` says in which.
    """
    return _read(path, as_rgb, max_pixels, content)


def read_label(
    path: str, table: tuple[int, ...], rule: str, max_pixels: int = MAX_PIXELS, content: bytes | None = None
) -> Image.Image:
    """The label file as train ids, mode L.

    Args:
        path: an image with one channel of ids, see `as_ids`. content: as of `read_image`.
        table: what `lookup_table` returns.
        rule: which ids are allowed, in words, for the error.
    """
    return as_train_ids(_read(path, as_ids, max_pixels, content), path, table, rule)


def as_train_ids(label: Image.Image, path: str, table: tuple[int, ...], rule: str) -> Image.Image:
    """A map of ids, mode L or P, as train ids; the other arguments are those of `read_label`."""
    # one pass over the raw ids finds every mistake; a histogram costs 1 ms at 1024x2048
    histogram = label.histogram()
    wrong = [raw for raw, count in enumerate(histogram) if count and table[raw] < 0]
    if wrong:
        shown = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
        is_binary = [raw for raw, count in enumerate(histogram) if count] == [0, 255]
        binary = "; masks of 0 and 255 are read by dataset folder with lookup: {0: 0, 255: 1}" if is_binary else ""
        altered = "; JPEG alters ids, so save labels as PNG" if path.lower().endswith((".jpg", ".jpeg")) else ""
        raise ValueError(f"{path}: label ids {shown} are not allowed; {rule}{binary}{altered}")
    if label.mode == "L" and all(table[raw] == raw for raw, count in enumerate(histogram) if count):
        return label
    return label.point([max(train_id, 0) for train_id in table], "L")


class LabelledFiles:
    """A data set of images and labels in files: its length, its items, and the names of its images.

    Attributes:
        names: of the images. files: their paths and those of their labels, None where these are not public.
        has_labels: False: nobody has labelled the images, and none of them has a class.
        images_left_out, labels_left_out: paths of images that have no label and are no part of the data set, and of
            labels that belong to none of its images, as far as it knows of them.
        table, rule: how label files are read, see `read_label`.
        max_pixels: height times width of the largest image or label that is read.

    Raises:
        FileNotFoundError: a folder, list or image is missing, or an image has no label.
        ValueError: unknown split, nothing found, and on access an unreadable file, an id or a size that is wrong.
    """

    ignore_index = IGNORE_INDEX
    has_labels = True
    names: list[str]
    files: list[tuple[str, str | None]]
    images_left_out: tuple[str, ...] = ()
    labels_left_out: tuple[str, ...] = ()
    table: tuple[int, ...]
    rule: str
    max_pixels = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        image_path, label_path = self.files[index]
        image = read_image(image_path, self.max_pixels)
        target = self.target(index, image.size)
        require_one_size(image_path, image.size, label_path, target.size)
        return image, target

    def target(self, index: int, size: tuple[int, int]) -> Image.Image:
        """The labels of an image as train ids, mode L: 255 everywhere where they are not public.

        Args:
            size: width and height of the image, for labels that are drawn.
        """
        path = self.files[index][1]
        return Image.new("L", size, IGNORE_INDEX) if path is None else self.read_target(path)

    def stamp(self, index: int) -> tuple[str | int, ...]:
        """What tells an image and its label from other ones of that name: sizes and times of their files."""
        status = [os.stat(path) for path in self.files[index] if path is not None]
        return self.names[index], *(number for one in status for number in (one.st_size, one.st_mtime_ns))

    def read_target(self, path: str) -> Image.Image:
        """The label file as train ids, mode L."""
        return read_label(path, self.table, self.rule, self.max_pixels)

    def name(self, index: int) -> str:
        """What the image is called in lists of images and in files made for it."""
        return self.names[index]


def _read(
    path: str, pixels: Callable[[Image.Image], Image.Image], max_pixels: int, content: bytes | None = None
) -> Image.Image:
    """What `pixels` makes of an image file that holds one image."""
    try:
        with open_image(path, max_pixels, content) as image:
            count = len(pages(image))
            if count > 1:
                raise RefusedFile(f"holds {count} pages or frames, an image and its label one each; save them apart")
            return pixels(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: the file was there when the dataset was listed and is gone now") from None
    except RefusedFile as error:
        raise ValueError(f"{path}: {error}") from None
    except UNDECODABLE as error:
        raise ValueError(f"{path}: cannot be decoded (truncated?), replace the file; Pillow says: {error}") from error


def exif_orientation(path: str) -> int:
    """The EXIF orientation by which an image or a label file is turned upright, 0 for not at all."""
    if path.lower().endswith((".mat", ".json", ".txt")):  # SBD's masks, and shapes in text files
        return 0
    with open_image(path, None) as image:
        turned = orientation(image)
    return turned if turned in TURNS else 0


def require_one_size(image: str, size: tuple[int, int], label: str, label_size: tuple[int, int]) -> None:
    """ValueError where the width and height of an image are not those of its label, or those it was drawn for."""
    if size != label_size:
        raise ValueError(
            f"{image} is {size[1]}x{size[0]} but its label {label} is {label_size[1]}x{label_size[0]} (height x width); "
            f"they must be of one size{_told_by_exif(image, label)}"
        )


def _told_by_exif(image: str, label: str) -> str:
    """Why sizes may differ: of two files, one is turned by its EXIF orientation and the other is not."""
    turned = [path for path in (image, label) if os.path.isfile(path) and exif_orientation(path) > 4]
    if len(turned) != 1:
        return ""
    return (
        f". {turned[0]} has an EXIF orientation, by which it was turned upright, the other has none: both must be drawn "
        f"the same way round; turn the other by a quarter, or save this one without the entry"
    )
