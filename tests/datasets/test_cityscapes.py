from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets._files import published_split
from segkd.datasets.cityscapes import Cityscapes

FRAMES = {"train": "aachen_000000_000019", "val": "lindau_000001_000019"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, frame in FRAMES.items():
        city = frame.split("_")[0]
        for folder in ("leftImg8bit", "gtFine"):
            (tmp_path / folder / split / city).mkdir(parents=True)
        Image.new("RGB", (35, 1)).save(tmp_path / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png")
        ids = np.array([[*range(34), 255]], dtype=np.uint8)
        train_ids = np.array([[*range(19), *[255] * 16]], dtype=np.uint8)
        labels = tmp_path / "gtFine" / split / city
        Image.fromarray(ids).save(labels / f"{frame}_gtFine_labelIds.png")
        Image.fromarray(train_ids).save(labels / f"{frame}_gtFine_labelTrainIds.png")
        Image.new("RGB", (35, 1)).save(labels / f"{frame}_gtFine_color.png")
    return tmp_path


def test_34_ids_become_19(root: Path) -> None:
    dataset = Cityscapes(str(root), "train")
    target = np.asarray(dataset[0][1])[0]
    wanted = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 31: 16, 32: 17, 33: 18}
    wanted |= {raw: raw - 13 for raw in range(19, 29)}
    assert target.tolist() == [wanted.get(raw, 255) for raw in [*range(34), 255]]
    assert dataset.name(0) == FRAMES["train"]


def test_train_id_files_are_read_as_they_are(root: Path) -> None:
    dataset = Cityscapes(str(root), "trainval", labels="labelTrainIds")
    assert len(dataset) == 2
    assert np.asarray(dataset[1][1])[0].tolist() == [*range(19), *[255] * 16]


def test_names_are_those_of_the_published_lists(root: Path) -> None:
    assert Cityscapes(str(root), "train").name(0) in published_split("cityscapes", "1_2")


def test_what_can_be_wrong_is_said(root: Path) -> None:
    label = root / "gtFine" / "train" / "aachen" / f"{FRAMES['train']}_gtFine_labelIds.png"
    Image.fromarray(np.full((1, 35), 40, dtype=np.uint8)).save(label)
    with pytest.raises(ValueError, match=r"labelIds\.png: label ids 40 are not allowed; .*labelTrainIds"):
        Cityscapes(str(root), "train")[0]
    label.unlink()
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit\.png: its label .*_gtFine_labelIds\.png does not exist"):
        Cityscapes(str(root), "train")
