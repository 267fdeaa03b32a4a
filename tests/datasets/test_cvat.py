"""A made-up export of CVAT: masks in colours, with a palette, in grey; names with blanks and accents; missing files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets.cvat import CVAT

LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad: a:128,64,128::\nárbol:0,128,0:trunk,crown:\n"
COLORS = np.array([(0, 0, 0), (128, 64, 128), (0, 128, 0), (224, 224, 192)], np.uint8)
IDS = np.array([[0, 1, 2], [3, 2, 0]], np.uint8)  # 3: VOC's colour of object borders
WANTED = [[0, 1, 2], [255, 2, 0]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("JPEGImages/sub", "SegmentationClass/sub", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "labelmap.txt").write_text(LABELMAP, encoding="utf-8")
    (tmp_path / "ImageSets/Segmentation/default.txt").write_text("a b\nsub/é\ngrey\nempty\n", encoding="utf-8")
    with_palette = Image.frombytes("P", (3, 2), IDS.tobytes())
    with_palette.putpalette(COLORS.tobytes())
    masks = {"a b": Image.fromarray(COLORS[IDS]), "sub/é": with_palette, "empty": Image.new("RGB", (3, 2)),
             "grey": Image.fromarray(np.where(IDS == 3, 255, IDS).astype(np.uint8))}  # fmt: skip
    for name, mask in masks.items():
        Image.new("RGB", (3, 2)).save(tmp_path / f"JPEGImages/{name}.{'jpg' if name == 'a b' else 'png'}")
        mask.save(tmp_path / f"SegmentationClass/{name}.png")
    return tmp_path


def targets(dataset: CVAT) -> list[list[list[int]]]:
    assert all(dataset[index][1].mode == "L" for index in range(len(dataset)))
    return [np.asarray(dataset[index][1]).tolist() for index in range(len(dataset))]


def test_masks_of_every_kind(root: Path) -> None:
    dataset = CVAT(str(root), "train", subset="default")
    assert dataset.class_names == ("background", "road: a", "árbol")
    assert dataset.palette == tuple(map(tuple, COLORS[:3].tolist()))
    assert dataset.names == ["a b", "sub_é", "grey", "empty"] and targets(dataset) == [WANTED] * 3 + [[[0] * 3] * 2]


def test_labels_are_chosen_by_name_and_one_subset_is_divided(root: Path) -> None:
    chosen = {"way": ("road: a",), "árbol": "ignore", "*": "rest"}
    dataset = CVAT(str(root), "default", classes=chosen)
    assert dataset.class_names == ("way", "rest") and dataset.palette == ((128, 64, 128), (0, 0, 0))
    assert targets(dataset)[:3] == [[[1, 0, 255], [255, 255, 1]]] * 3
    parts = [CVAT(str(root), split, subset="default", val=0.4) for split in ("train", "val")]
    assert sorted(parts[0].names + parts[1].names) == sorted(["a b", "sub_é", "grey", "empty"]) and all(parts)


def test_without_a_labelmap_the_labels_are_vocs(root: Path) -> None:
    (root / "labelmap.txt").unlink()
    dataset = CVAT(str(root), "default")
    assert dataset.num_classes == 21 and dataset.class_names[15] == "person"
    with pytest.raises(ValueError, match=r"a b\.png: colour \(128, 64, 128\) is none of those in labelmap\.txt"):
        dataset[0]


@pytest.mark.parametrize("line, told", [
    ("tree:1,2::", "label 4: expected name:red,green,blue:parts:actions, got 'tree:1,2::'"),
    ("tree:1,2,300::", "label 4: expected name:red,green,blue"), ("tree", "label 4: expected name:red,green,blue"),
    ("background:1,1,1::", "label 4: 'background' stands there twice"),
])  # fmt: skip
def test_lines_of_the_labelmap_that_are_wrong(root: Path, line: str, told: str) -> None:
    (root / "labelmap.txt").write_text(f"{LABELMAP}{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"labelmap\.txt, {told}"):
        CVAT(str(root), "default")


def test_files_that_are_wrong_or_missing(root: Path) -> None:
    (root / "labelmap.txt").write_text(f"{LABELMAP}tree:0,128,0::\nbush:::\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"colour \(0, 128, 0\) occurs twice, for árbol and tree"):
        CVAT(str(root), "default")
    (root / "labelmap.txt").write_text(LABELMAP, encoding="utf-8")
    with pytest.raises(
        FileNotFoundError, match=r"train\.txt: no such list; there are: default\. .*subset: default, val"
    ):
        CVAT(str(root), "train")
    Image.fromarray(np.full((2, 3), 9, np.uint8)).save(root / "SegmentationClass/grey.png")
    with pytest.raises(ValueError, match=r"grey\.png: label ids 9 are not allowed; grey masks hold 0\.\.2"):
        CVAT(str(root), "default")[2]
    (root / "SegmentationClass/grey.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"grey\.png: cannot be decoded"):
        CVAT(str(root), "default")[2]
    (root / "SegmentationClass/sub/é.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"SegmentationClass/sub/é\.\*: .*default\.txt lists this image"):
        CVAT(str(root), "default")


def test_two_images_of_one_name(root: Path) -> None:
    Image.new("RGB", (3, 2)).save(root / "JPEGImages/a b.png")
    with pytest.raises(ValueError, match="two images of one name; keep one of them"):
        CVAT(str(root), "train", subset="default")
