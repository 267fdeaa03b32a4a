from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets.ade20k import ADE20K


def test_ids_count_from_one_and_zero_is_ignored(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder / "validation").mkdir(parents=True)
    Image.new("RGB", (151, 1)).save(tmp_path / "images" / "validation" / "ADE_val_00000001.jpg")
    label = tmp_path / "annotations" / "validation" / "ADE_val_00000001.png"
    Image.fromarray(np.arange(151, dtype=np.uint8)[None]).save(label)
    dataset = ADE20K(str(tmp_path), "val")
    assert len(dataset) == 1 and dataset.name(0) == "ADE_val_00000001"
    assert np.asarray(dataset[0][1])[0].tolist() == [255, *range(150)]
    Image.fromarray(np.full((1, 151), 151, dtype=np.uint8)).save(label)
    with pytest.raises(ValueError, match="label ids 151 are not allowed"):
        dataset[0]


def test_150_names_and_colours() -> None:
    assert len(set(ADE20K.class_names)) == len(set(ADE20K.palette)) == ADE20K.num_classes == 150
    assert [ADE20K.class_names[index] for index in (0, 44, 149)] == ["wall", "chest of drawers", "flag"]


def test_unknown_split_lists_the_splits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are: train, val"):
        ADE20K(str(tmp_path), "validation")
    with pytest.raises(FileNotFoundError, match="Expected layout"):
        ADE20K(str(tmp_path), "val")


@pytest.mark.parametrize("folder", ["images/testing", "release_test/testing"])
def test_test_images_have_nothing_to_count(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (5, 3)).save(tmp_path / folder / "ADE_test_00000001.jpg")
    dataset = ADE20K(str(tmp_path), "test")
    image, target = dataset[0]
    assert len(dataset) == 1 and dataset.name(0) == "ADE_test_00000001"
    assert target.size == image.size == (5, 3) and (np.asarray(target) == 255).all()
