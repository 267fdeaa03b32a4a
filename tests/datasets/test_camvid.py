from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets.camvid import CamVid

REAL = Path(__file__).parents[3] / "shared" / "data" / "camvid"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, names in {"train": ("b", "a"), "val": ("c",)}.items():
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}annot").mkdir()
        for name in names:
            Image.new("RGB", (12, 1), (9, 9, 9)).save(tmp_path / split / f"{name}{'.jpg' if name == 'b' else '.png'}")
            Image.fromarray(np.arange(12, dtype=np.uint8)[None]).save(tmp_path / f"{split}annot" / f"{name}.png")
    return tmp_path


def test_items_are_sorted_and_label_11_is_ignored(root: Path) -> None:
    dataset = CamVid(str(root), "train")
    assert len(dataset) == 2 and [dataset.name(index) for index in range(2)] == ["a", "b"]
    image, target = dataset[1]
    assert image.mode == "RGB" and target.mode == "L"
    assert np.asarray(target).tolist() == [[*range(11), 255]]
    assert len(CamVid(str(root), "trainval")) == 3


def test_what_can_be_wrong_is_said(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"test: no such folder. Expected layout: <root>/"):
        CamVid(str(root), "test")
    (root / "trainannot" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png: its label .*trainannot/a\.png does not exist"):
        CamVid(str(root), "train")
    (root / "val" / "c.png").unlink()
    with pytest.raises(ValueError, match="val: no images"):
        CamVid(str(root), "val")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real CamVid is not beside the checkout")
def test_real_camvid() -> None:
    lengths = {split: len(CamVid(str(REAL), split)) for split in ("train", "val", "test", "trainval")}
    assert lengths == {"train": 367, "val": 101, "test": 233, "trainval": 468}
    image, target = CamVid(str(REAL), "val")[0]
    assert image.size == target.size == (480, 360)
    assert set(np.unique(target)) <= {*range(11), 255}
