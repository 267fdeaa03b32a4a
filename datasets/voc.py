"""PASCAL VOC 2012 segmentation, with the SBD masks on request: 20 objects and background, images of all sizes.

Sources: Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2015; Hariharan et al., "Semantic
contours from inverse detectors", ICCV 2011 (SBD).
"""

import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ._files import LabelledFiles, lookup_table, published_split, read_list, require_folder, require_split
from ._images import open_regular
from ._palettes import bit_palette

LAYOUT = (
    "<root>/JPEGImages/<id>.jpg, <root>/SegmentationClass/<id>.png, <root>/ImageSets/Segmentation/<split>.txt, "
    "for train_aug also <root>/SegmentationClassAug/<id>.png or SBD's folder"
)
SPLITS = ("train", "val", "trainval", "train_aug", "test")
TABLE = lookup_table({index: index for index in range(21)})


class VOC(LabelledFiles):
    """Images and targets of VOC 2012.

    Args:
        root: the folder that holds `JPEGImages`, or one that holds `VOCdevkit/VOC2012` or `VOC2012`.
        split: train (1464), val (1449), trainval (2913), train_aug: the 10582 images of train plus SBD, or test (1456;
            a separate download). The test labels are not public: its targets are 255 everywhere.
        sbd: SBD's folder (the one with `cls/*.mat`, or the one above `dataset/cls`), read for train_aug only: a
            recipe's arguments go to all its splits. A mask is looked for in SegmentationClassAug, SegmentationClass
            and sbd, in this order.

    Items: (image, target): RGB image and mode L target with train ids 0..20 (0 background), 255 on object borders.
    Their names are VOC's ids, e.g. 2007_000032.
    """

    num_classes = 21
    class_names = (
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
    )  # fmt: skip
    palette = bit_palette(21)
    table, rule = TABLE, "VOC's masks hold 0..20 and 255 for object borders"

    def __init__(self, root: str, split: str, *, sbd: str | None = None):
        require_split(split, SPLITS)
        folder = _find_devkit(root)
        image_folder = require_folder(folder / "JPEGImages", LAYOUT)
        mask_folders = [(folder / "SegmentationClass", ".png")]
        if split == "train_aug":
            self.names = published_split("voc", "train_aug")
            mask_folders.insert(0, (folder / "SegmentationClassAug", ".png"))
            if sbd is not None:
                mask_folders.append((_find_sbd(sbd), ".mat"))
        else:
            self.names = read_list(folder / "ImageSets" / "Segmentation" / f"{split}.txt", LAYOUT)
        images = _find_images(self.names, image_folder)
        masks = dict.fromkeys(self.names) if split == "test" else _find_masks(self.names, images, mask_folders)
        self.files = [(image, masks[name]) for name, image in zip(self.names, images)]

    def read_target(self, path: str) -> Image.Image:
        """The mask as train ids, mode L."""
        return _read_sbd(path) if path.endswith(".mat") else super().read_target(path)


def _find_devkit(root: str) -> Path:
    for below in ("", "VOCdevkit/VOC2012", "VOC2012"):
        if (Path(root) / below / "JPEGImages").is_dir():
            return Path(root) / below
    raise FileNotFoundError(f"{root}: no JPEGImages in it nor in VOCdevkit/VOC2012. Expected layout: {LAYOUT}")


def _find_sbd(sbd: str) -> Path:
    for below in ("cls", "dataset/cls", "benchmark_RELEASE/dataset/cls"):
        if (Path(sbd) / below).is_dir():
            return Path(sbd) / below
    raise FileNotFoundError(f"{sbd}: no SBD masks here. Expected layout: <sbd>/cls/<id>.mat or dataset/cls below it")


def _find_images(names: list[str], images: Path) -> list[str]:
    """Path of the image of each id."""
    present = set(os.listdir(images))
    for name in names:
        if f"{name}.jpg" not in present:
            raise FileNotFoundError(f"{images / name}.jpg: the image is on the list but does not exist")
    return [str(images / f"{name}.jpg") for name in names]


def _find_masks(names: list[str], images: list[str], folders: list[tuple[Path, str]]) -> dict[str, str]:
    """Id -> path of its mask in the first folder that has it; each folder is listed once, not asked about every id."""
    folders, masks = [(folder, suffix) for folder, suffix in folders if folder.is_dir()], {}
    for folder, suffix in reversed(folders):
        masks |= {file.removesuffix(suffix): f"{folder}/{file}" for file in os.listdir(folder) if file.endswith(suffix)}
    for name, image in zip(names, images):
        if name not in masks:
            searched = ", ".join(str(folder) for folder, _ in folders) or "no mask folder at all"
            raise FileNotFoundError(f"{image}: no mask called {name} in {searched}. Expected layout: {LAYOUT}")
    return masks


def _read_sbd(path: str) -> Image.Image:
    """SBD's class mask: field Segmentation of GTcls, ids 0..20, no border pixels."""
    # here: half a second, for those who have such files
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with open_regular(path) as file:
            mask = loadmat(file)["GTcls"]["Segmentation"][0, 0]  # a 1x1 struct
    except (OSError, ValueError, LookupError, TypeError, EOFError, MatReadError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be decoded (truncated?), expected GTcls.Segmentation: {error}") from error
    wrong = sorted({int(value) for value in np.unique(mask) if not 0 <= value <= 20})
    if wrong:
        raise ValueError(f"{path}: label ids {wrong[:10]} are not allowed; SBD's masks hold 0..20")
    return Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
