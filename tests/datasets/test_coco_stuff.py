from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets.coco_stuff import CocoStuff

# counted from 1, as the data set's own list of names numbers them
NEVER_ANNOTATED = {
    12: "street sign", 26: "hat", 29: "shoe", 30: "eye glasses", 45: "plate", 66: "mirror", 68: "window", 69: "desk",
    71: "door", 83: "blender", 91: "hair brush",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One validation image, its label a row of the 171 ids that occur and 255."""
    for folder in ("images/val2017", "annotations/val2017"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (172, 1)).save(tmp_path / "images" / "val2017" / "000000000139.jpg")
    write_label(tmp_path, [index for index in range(182) if index + 1 not in NEVER_ANNOTATED] + [255])
    return tmp_path


def write_label(root: Path, ids: list[int]) -> None:
    Image.fromarray(np.array([ids], dtype=np.uint8)).save(root / "annotations" / "val2017" / "000000000139.png")


def test_ids_stay_as_they_are_with_182_classes(root: Path) -> None:
    dataset = CocoStuff(str(root), "val")
    assert len(dataset) == 1 and dataset.name(0) == "000000000139" and dataset.num_classes == 182
    ids = np.asarray(dataset[0][1])[0].tolist()
    assert ids == [index for index in range(182) if index + 1 not in NEVER_ANNOTATED] + [255]
    # the eleven count as classes, so a file that has them is read
    write_label(root, [11] * 172)
    assert (np.asarray(dataset[0][1]) == 11).all()
    write_label(root, [182] * 172)
    with pytest.raises(ValueError, match=r"000000000139\.png: label ids 182 are not allowed; .* 0\.\.181 and 255"):
        dataset[0]


def test_171_classes_are_numbered_without_gaps(root: Path) -> None:
    dataset = CocoStuff(str(root), "val", classes=171)
    assert dataset.num_classes == len(dataset.class_names) == len(set(dataset.palette)) == 171
    assert np.asarray(dataset[0][1])[0].tolist() == [*range(171), 255]
    assert set(CocoStuff.class_names) - set(dataset.class_names) == set(NEVER_ANNOTATED.values())
    # a class keeps its name and colour
    for name, colour in zip(dataset.class_names, dataset.palette, strict=True):
        assert CocoStuff.palette[CocoStuff.class_names.index(name)] == colour
    write_label(root, [11] * 172)
    with pytest.raises(ValueError, match="label ids 11 are not allowed; .* the folder dataset"):
        dataset[0]


def test_names_and_colours() -> None:
    assert {index: CocoStuff.class_names[index - 1] for index in NEVER_ANNOTATED} == NEVER_ANNOTATED
    places = {0: "person", 89: "toothbrush", 91: "banner", 168: "tree", 181: "wood"}
    assert {index: CocoStuff.class_names[index] for index in places} == places
