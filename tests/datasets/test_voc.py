from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from segkd.datasets import voc
from segkd.datasets._palettes import bit_palette
from segkd.datasets.voc import VOC


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for name in ("2007_000001", "2007_000002", "2008_000003"):
        Image.new("RGB", (22, 1)).save(folder / "JPEGImages" / f"{name}.jpg")
    for name in ("2007_000001", "2007_000002"):
        write_mask(folder / "SegmentationClass" / f"{name}.png", [*range(21), 255])
    (folder / "ImageSets/Segmentation/train.txt").write_text("2007_000002\n2007_000001\n")
    return folder


def write_mask(path: Path, ids: list[int]) -> None:
    path.parent.mkdir(exist_ok=True)
    mask = Image.frombytes("P", (len(ids), 1), bytes(ids))
    mask.putpalette([level for color in VOC.palette for level in color])
    mask.save(path)


def test_palette_masks_are_read_as_ids_from_either_root(root: Path) -> None:
    for place in (root, root.parents[1], root.parent):
        dataset = VOC(str(place), "train")
        assert len(dataset) == 2 and dataset.name(0) == "2007_000002"
        assert np.asarray(dataset[0][1]).tolist() == [[*range(21), 255]]


def test_palette_is_the_one_of_the_challenge() -> None:
    assert VOC.palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert VOC.palette[15] == (192, 128, 128) and VOC.palette[20] == (0, 64, 128)
    assert len(set(bit_palette(256))) == 256 and bit_palette(256)[255] == (224, 224, 192)


def test_augmented_masks_come_first_then_voc_then_sbd(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["2007_000001", "2007_000002", "2008_000003"]
    monkeypatch.setattr(voc, "published_split", lambda dataset, name: names)
    with pytest.raises(FileNotFoundError, match=r"2008_000003\.jpg: no mask called 2008_000003 in .*SegmentationClass"):
        VOC(str(root), "train_aug")
    write_mask(root / "SegmentationClassAug" / "2007_000002.png", [5] * 22)
    masks = root / "sbd" / "dataset" / "cls"
    masks.mkdir(parents=True)
    savemat(masks / "2008_000003.mat", {"GTcls": {"Segmentation": np.full((1, 22), 7, dtype=np.uint8)}})
    dataset = VOC(str(root), "train_aug", sbd=str(root / "sbd"))
    assert [np.asarray(dataset[index][1])[0, 3] for index in range(3)] == [3, 5, 7]
    (masks / "2008_000003.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(ValueError, match=r"2008_000003\.mat: cannot be decoded"):
        dataset[2]


def test_what_can_be_wrong_is_said(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val\.txt: no such list"):
        VOC(str(root), "val")
    with pytest.raises(FileNotFoundError, match="no JPEGImages"):
        VOC(str(root / "JPEGImages"), "train")
    assert len(VOC(str(root), "train", sbd="not there")) == len(VOC(str(root), "train"))
    with pytest.raises(FileNotFoundError, match="no SBD masks here"):
        VOC(str(root), "train_aug", sbd=str(root / "sbd"))
    (root / "JPEGImages" / "2007_000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"2007_000001\.jpg: the image is on the list"):
        VOC(str(root), "train")
