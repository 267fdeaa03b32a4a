"""A made-up LabelMe set: every kind of shape, holes, overlaps, shapes outside, empty files, images elsewhere."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets.labelme import LabelMe


def shape(label: str, points: list, kind: str = "polygon", **other: object) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **other}


def encoded(pixels: list) -> str:
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, bool)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


SHAPES = [
    shape("straße", [[1, 1], [7, 1], [7, 5], [1, 5]]),
    shape("_background_", [[3, 2], [5, 4]], "rectangle"),  # a hole
    shape("car", [[9, 3], [2, 4]], "rectangle"),  # from its upper right corner, which lies outside
    shape("car", [[1.5, 6.5], [1.5, 7.5]], "circle"),
    shape("straße", [[6, 6], [8, 8]], "mask", mask=encoded([[1, 0, 1], [0, 1, 1], [1, 1, 1]])),
    shape("__ignore__", [[0, 0], [1, 0], [1, 1], [0, 1]]),
    shape("car", [[20, 20], [30, 20], [30, 30]]),
]
A = ["?.......", ".ssssss.", ".ss..ss.", ".scccccc", ".ssssss.", ".c......", "ccc...s.", ".c.....s"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "train/ä/a", SHAPES)
    write(tmp_path, "train/empty", [])
    write(tmp_path, "val/v", [shape("tree", [[0, 0], [8, 0], [8, 1], [0, 1]])])
    for name in ("train/ä/a.jpg", "train/empty.png", "val/v.jpg", "val/nothing marked yet.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def write(root: Path, name: str, shapes: object, **other: object) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    content = {"shapes": shapes, "imagePath": "x.jpg", "imageData": None, "imageHeight": 8, "imageWidth": 8} | other
    (root / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def drawn(dataset: LabelMe, letters: str = ".cst") -> list[list[str]]:
    assert all(dataset[index][1].mode == "L" for index in range(len(dataset)))
    targets = [np.asarray(dataset[index][1]) for index in range(len(dataset))]
    return [["".join("?" if value == 255 else letters[value] for value in row) for row in one] for one in targets]


def test_shapes_are_drawn(root: Path) -> None:
    dataset = LabelMe(str(root), "train")
    # the labels of all splits, so that each has the same classes
    assert dataset.class_names == ("background", "car", "straße", "tree") and len(dataset.palette) == 4
    assert dataset.names == ["empty", "ä_a"] and drawn(dataset) == [["........"] * 8, A]
    val = LabelMe(str(root), "val")
    assert drawn(val) == [["tttttttt", *["........"] * 7]]
    assert val.images_left_out == (str(root / "val/nothing marked yet.jpg"),)


def test_larger_shapes_lie_below_where_that_is_said(root: Path) -> None:
    write(root, "val/v", [SHAPES[2], SHAPES[0]])
    assert drawn(LabelMe(str(root), "val"), ".cs")[0][3] == ".ssssssc"
    assert drawn(LabelMe(str(root), "val", overlap="area"), ".cs")[0][3] == ".scccccc"


def test_names_come_from_the_recipe_or_labels_txt(root: Path) -> None:
    options = {"label_names": ("tree", "car", "straße")}
    assert LabelMe(str(root), "train", **options).class_names == ("background", "tree", "car", "straße")
    (root / "labels.txt").write_text("__ignore__\n_background_\nstraße\ncar\n", encoding="utf-8")
    dataset = LabelMe(str(root), "train")
    assert dataset.class_names == ("background", "straße", "car") and drawn(dataset, ".sc")[1] == A
    with pytest.raises(
        ValueError, match=r"v\.json: shape 1 \('tree'\): is none of the classes, which are 'background'"
    ):
        LabelMe(str(root), "val")[0]
    chosen = LabelMe(str(root), "train", classes={"thing": ("car",), "straße": "ignore", "*": "rest"})
    assert chosen.class_names == ("thing", "rest")
    assert drawn(chosen, "t.")[1] == [row.translate(str.maketrans("cs", "t?")) for row in A]


def test_one_folder_is_divided_and_images_may_lie_elsewhere(root: Path) -> None:
    parts = [LabelMe(str(root), split, labels="", val=0.5) for split in ("train", "val")]
    assert sorted(parts[0].names + parts[1].names) == ["train_empty", "train_ä_a", "val_v"]
    (root / "photos").mkdir()
    (root / "train/empty.png").rename(root / "photos/e 1.png")
    write(root, "train/empty", [], imagePath="..\\photos\\e 1.png")
    assert LabelMe(str(root), "train").files[0] == (str(root / "photos/e 1.png"), str(root / "train/empty.json"))
    write(root, "train/empty", [], imagePath="gone.png")
    with pytest.raises(FileNotFoundError, match=r"empty\.json: there is no image of this name beside it, nor .*gone"):
        LabelMe(str(root), "train")
    for folder, error, told in (("test", FileNotFoundError, "no such folder"), ("photos", ValueError, "no JSON files")):
        with pytest.raises(error, match=f"{folder}: {told}. Expected layout: <root>/<split>/<name>.json"):
            LabelMe(str(root), folder)


@pytest.mark.parametrize("wrong, told", [
    (shape("car", [[0, 0], [1, 1]], "linestrip"), "a shape of type 'linestrip' has no pixels inside; those that are"),
    (shape("car", [[0, 0], [1, 1]], ["circle"]), "a shape of type .* has no pixels inside"),
    (shape("car", [[0, 0], [1, 1]]), "a polygon has at least three points"),
    (shape("car", [[0, 0], [1]]), "its points are pairs of numbers"),
    (shape("car", [[0, 0]], "circle"), "a circle has two points, and this one has 1"),
    (shape("car", [[0, 0], [1e300, 1e300]], "circle"), "a circle and its middle reach at most 100000 pixels"),
    (shape("car", [[0, 0], [float("nan"), 1]], "circle"), "its points are pairs of numbers, and one is infinite"),
    (shape("car", [[0, 0], [1, 1]], "mask"), "its mask is no PNG file in base 64"),
    (shape("car", [[0, 0], [1, 1]], "mask", mask="aGVsbG8="), "its mask is no PNG file in base 64"),
])  # fmt: skip
def test_shapes_that_are_none_are_named(root: Path, wrong: dict, told: str) -> None:
    write(root, "train/ä/a", [SHAPES[0], wrong])
    with pytest.raises(ValueError, match=rf"ä/a\.json: shape 2 \('car'\): {told}"):
        LabelMe(str(root), "train")[1]


def test_files_that_are_wrong_are_named(root: Path) -> None:
    write(root, "train/ä/a", SHAPES, imageHeight=9)
    with pytest.raises(ValueError, match=r"a\.jpg is 8x8 but its label .*a\.json is 9x8"):
        LabelMe(str(root), "train")[1]
    (root / "train/ä/a.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"a\.json: 'shapes' must be a list, and is 'null'"):
        LabelMe(str(root), "train")
