"""Any Hugging Face data set with a column of images and one of masks: a local folder, Parquet files, or a Hub id."""

import dataclasses
import importlib
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Len
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image

from ._classes import Classes
from ._files import IGNORE_INDEX, Share, as_train_ids, drawn_split, entry, read_image, read_json, require_one_size
from ._images import MAX_PIXELS
from ._label_images import LabelId, LabelImages, label_images
from ._palettes import Color

OLDEST = 4
IMAGES = ("image", "pixel_values", "img")
MASKS = ("label", "labels", "mask", "annotation", "segmentation", "semantic_mask", "segmentation_mask", "label_mask")


class HuggingFace:
    """Images and masks of a Hugging Face data set, decoded by the rules that hold for files.

    It needs the package `datasets` (pip install "segkd[datasets]"), from 4.0 on, which runs no code of a data set.

    Args:
        root: a folder that `save_to_disk` has written, one of Parquet or of images with metadata, one Parquet file, or
            the Hub's user/name.
        split: the data set's own word, such as train or validation; with `val` see there.
        image, mask: the columns; None: where two columns hold images, the one called `image` and the other.
        config: of a data set that has several. revision: of the Hub's repository: a branch, tag or commit.
        class_names: the class of each id, from 0 on. None: those of the column of masks (ClassLabel), else those of
            the data set's id2label.json. id2label: id -> name, where there are gaps; a mask of 0 and 255 has
            `{0: background, 255: building}`.
        reduce_labels: id 0 is ignored, and names count from id 1 on, as in ADE20K.
        classes: which classes are trained on, merged or ignored, by name, see `folder`.
        colors: a table of names and colours, where masks are painted in them; void_colors: those that are ignored.
        val: divides the images of split `train` by their number, see `folder`.

    Items: (image, target): RGB image and mode L target, 255 where the mask holds 255. Their names are <split>_<row>.

    Raises:
        FileNotFoundError: no such folder or repository. ValueError: the package is missing, another split or column,
            no names, and on access what is wrong with a row.
    """

    ignore_index = IGNORE_INDEX
    max_pixels = MAX_PIXELS

    def __init__(
        self,
        root: str,
        split: str,
        *,
        image: str | None = None,
        mask: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        class_names: Annotated[tuple[str, ...], Len(1, 255)] | None = None,
        id2label: dict[LabelId, str] | None = None,
        reduce_labels: bool = False,
        classes: Classes | None = None,
        colors: dict[str, Color] | None = None,
        void_colors: tuple[Color, ...] = (),
        val: Share | None = None,
    ):
        package = _package()
        self.split = split if val is None else "train"
        self.where = f"{root} ({self.split})"
        table = _load(package, root, config, revision, self.split)
        self.image, self.mask = _columns(table.features, image, mask, root)
        if colors is None and class_names is None and id2label is None:
            id2label = _names(table.features[self.mask]) or _id2label(root, revision)
        self.labels = _meaning(class_names, id2label, reduce_labels, classes, colors, void_colors, root)
        self.class_names, self.palette = self.labels.class_names, self.labels.palette
        self.num_classes = len(self.class_names)
        for column in (self.image, self.mask):  # bytes as they lie: one rule for 16 bits, palettes and turned images
            if type(table.features[column]).__name__ == "Image":
                table = table.cast_column(column, package.Image(decode=False))
        self.table = table
        self.rows = drawn_split([self._called(row) for row in range(len(table))], split, val)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        row = self.table[self.rows[index]]
        where = f"{self.where}, row {self.rows[index]}, "
        image_of = where + self.image
        path, content = _file(row[self.image], image_of)
        image = read_image(path, self.max_pixels, content)
        mask_of = where + self.mask
        if isinstance(row[self.mask], dict):
            path, content = _file(row[self.mask], mask_of)
            target = self.labels.read(path, self.max_pixels, content)
        else:
            target = as_train_ids(_label_map(row[self.mask], mask_of), mask_of, self.labels.table, self.labels.rule)
        require_one_size(image_of, image.size, mask_of, target.size)
        return image, target

    def name(self, index: int) -> str:
        """<split>_<row>, e.g. train_000007."""
        return self._called(self.rows[index])

    def stamp(self, index: int) -> tuple[str | int, ...]:
        """What tells an image and its mask from those of other data sets: the data set's fingerprint and the row."""
        return self.name(index), self.where, str(getattr(self.table, "_fingerprint", "")), len(self.table)

    def _called(self, row: int) -> str:
        return f"{self.split}_{row:06d}"


def _package():
    """Hugging Face's package `datasets`.

    The name is that of our room, too: a Python started in the root of the project finds its folder where the package is
    not installed, and the package where it is.
    """
    try:
        package = importlib.import_module("datasets")
    except ImportError:
        package = None
    if not hasattr(package, "load_dataset"):
        raise ValueError(
            'data sets of Hugging Face need its package datasets, which is not installed: pip install -e ".[datasets]"'
        )
    if int(package.__version__.split(".")[0]) < OLDEST:
        raise ValueError(
            f"Hugging Face's package datasets is {package.__version__}, which may run the code of a data set; from "
            f'{OLDEST}.0 on it does not: pip install -e ".[datasets]"'
        )
    return package


def _load(package, root: str, config: str | None, revision: str | None, split: str):
    """One split of the data set, whose rows are dictionaries."""
    place = Path(root)
    if not root or (not place.exists() and (root.count("/") != 1 or root.startswith((".", "/", "~")))):
        raise FileNotFoundError(f"{root!r}: there is no such folder, and the Hub's names are like user/name")
    try:
        if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
            found = package.load_from_disk(root)
            if not isinstance(found, dict):  # one table, which must not be taken for two splits
                found = {str(found.split or "train"): found}
            if split not in found:
                told = " (args: {val: 0.1} divides it)" if list(found) == ["train"] else ""
                raise ValueError(f"no split called {split!r}; there are: {', '.join(found)}{told}")
            return found[split]
        if place.is_file():
            if split != "train":
                raise ValueError(f"no split called {split!r}; one file is train (args: {{val: 0.1}} divides it)")
            return package.load_dataset("parquet", data_files={split: root}, split=split)
        return package.load_dataset(root, name=config, revision=None if place.exists() else revision, split=split)
    except (
        Exception
    ) as error:  # its errors have no common class: no such repository, no network, no such split, no table
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{root}: split {split} cannot be loaded: {reason}") from error


def _columns(features: dict, image: str | None, mask: str | None, root: str) -> tuple[str, str]:
    """The columns of images and of masks."""
    pictures = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    image = image or next((name for name in IMAGES if name in pictures), "")
    others = [name for name in pictures if name != image]
    if mask is None and len(others) == 1:
        mask = others[0]
    mask = mask or next((name for name in MASKS if name in (others or features)), "")
    for argument, name in (("image", image), ("mask", mask)):
        if name not in features:
            told = f"there is no column {name!r}" if name else "which column it is cannot be told"
            raise ValueError(
                f"{root}: {argument}: {told}; say one of {', '.join(features)} (images are in {', '.join(pictures)})"
            )
    return image, mask


def _names(feature: object) -> dict[int, str] | None:
    """Id -> name where a column of arrays is one of class labels, at whatever depth of lists."""
    while feature is not None and not hasattr(feature, "names"):
        feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return None if feature is None else dict(enumerate(feature.names))


def _id2label(root: str, revision: str | None) -> dict[int, str] | None:
    """What a data set's id2label.json says, None where there is none."""
    path = Path(root) / "id2label.json"
    if not Path(root).exists():
        try:
            path = Path(hf_hub_download(root, "id2label.json", repo_type="dataset", revision=revision))
        except (EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError):
            return None
    if not path.is_file():
        return None
    content = read_json(path, "")
    wrong = [key for key in content if not (key.isdecimal() and int(key) < 256)]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]!r} is no id from 0 to 255; say the names with class_names or id2label")
    return {int(key): entry(content, key, str, str(path)) for key in content}


def _meaning(
    class_names: tuple[str, ...] | None,
    id2label: dict[int, str] | None,
    reduce_labels: bool,
    classes: Classes | None,
    colors: dict[str, Color] | None,
    void_colors: tuple[Color, ...],
    root: str,
) -> LabelImages:
    """What the masks mean, as the recipe or the data set says."""
    if colors is not None:
        if class_names or id2label or reduce_labels:
            raise ValueError("colors: masks painted in colours have no ids: no class_names, id2label or reduce_labels")
        return label_images(None, classes, None, colors, void_colors, None, None)
    if class_names is not None and id2label is not None:
        raise ValueError("id2label: takes the place of class_names; give one of the two")
    named = dict(enumerate(class_names)) if class_names else dict(sorted((id2label or {}).items()))
    if not named:
        raise ValueError(
            f"{root}: nothing says what the ids in the masks mean; say it with class_names or id2label, or beside the data "
            f'in a file id2label.json such as {{"0": "background", "1": "leaf"}}'
        )
    first = 1 if reduce_labels else 0
    lookup = {raw + first: place for place, raw in enumerate(named) if raw + first < IGNORE_INDEX + 1 - first}
    ignore = (0, IGNORE_INDEX) if reduce_labels else None
    labels = label_images(tuple(named.values()), classes, None, False, void_colors, lookup, ignore)
    hint = "; masks whose id 0 has no class are read with reduce_labels: true" if not reduce_labels else ""
    return dataclasses.replace(labels, rule=f"there are names for {min(lookup)}..{max(lookup)}{hint}")


def _file(value: object, where: str) -> tuple[str, bytes | None]:
    """The bytes of a picture in a row and where they are, or the path of a file beside the table."""
    if not isinstance(value, dict) or (value.get("bytes") is None and not value.get("path")):
        raise ValueError(f"{where}: there is no picture")
    return (where, value["bytes"]) if value.get("bytes") is not None else (value["path"], None)


def _label_map(value: object, where: str) -> Image.Image:
    """A mask that is an array of ids."""
    ids = np.asarray(value)
    ids = ids.astype(np.uint8) if ids.dtype == bool else ids
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0 or ids.max() > 255:
        raise ValueError(f"{where}: a mask has two dimensions and whole numbers from 0 to 255, and this one has not")
    return Image.fromarray(ids.astype(np.uint8))
