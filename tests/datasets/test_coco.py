"""A made-up COCO set with what its users' sets have: ids with gaps, crowds, holes, overlaps, accents, empty images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets.coco import COCO

CATEGORIES = [{"id": 44, "name": "dog"}, {"id": 3, "name": "sofá"}, {"id": 17, "name": "cat"}]
IMAGES = [
    {"id": 9, "file_name": "b/año 1.png", "height": 6, "width": 8},
    {"id": 5, "file_name": "a.png", "height": 6, "width": 8},
    {"id": 70, "file_name": "empty.png"},
]
RING = [1, 1, 7, 1, 7, 5, 1, 5, 1, 1, 3, 2, 3, 4, 5, 4, 5, 2, 3, 2]  # a bridge leads to the hole


def note(number: int, image: int, category: int, segmentation: object, crowd: int = 0) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}


INSTANCES = [
    note(1, 9, 17, [[2, 3, 9, 3, 9, 8, 2, 8]]),  # reaches out of the image, with fewer pixels inside than the next
    note(2, 9, 3, [RING]),
    note(4, 5, 44, {"size": [6, 8], "counts": "324000k0"}),
    note(3, 5, 17, {"size": [6, 8], "counts": [0, 12, 36]}, crowd=1),  # below all others
    note(5, 5, 3, [[6, 0, 8, 0, 8, 2, 6, 2], [6.0, 4, 8, 4, 8, 6, 6, 6]]),  # two parts
]
A = ["cc....ss", "cc....ss", "cc......", "ddd.....", "ddd...ss", "cc....ss"]
B = ["........", ".ssssss.", ".ss..ss.", ".scccccc", ".scccccc", "..cccccc"]
B_IN_ORDER = [*B[:3], ".ssccssc", ".ssssssc", B[5]]
EMPTY = ["........"] * 6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for record in IMAGES:
        path = tmp_path / "train2017" / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(path)
    write(tmp_path)
    return tmp_path


def write(root: Path, name: str = "instances_train2017", **other: object) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": IMAGES, "annotations": INSTANCES, "categories": CATEGORIES} | other
    (root / f"annotations/{name}.json").write_text(json.dumps(content), encoding="utf-8")


def drawn(dataset: COCO, letters: str = ".scd") -> list[list[str]]:
    assert all(dataset[index][1].mode == "L" for index in range(len(dataset)))
    targets = [np.asarray(dataset[index][1]) for index in range(len(dataset))]
    return [["".join("?" if value == 255 else letters[value] for value in row) for row in one] for one in targets]


def test_instances_are_drawn(root: Path) -> None:
    dataset = COCO(str(root), "train")
    assert dataset.class_names == ("background", "sofá", "cat", "dog") and dataset.num_classes == len(dataset.palette)
    assert dataset.names == ["a", "b_año 1", "empty"] and drawn(dataset) == [A, B, EMPTY]
    assert drawn(COCO(str(root), "train", overlap="order")) == [A, B_IN_ORDER, EMPTY]
    ignored = [row.replace("c", "?") for row in A]
    assert drawn(COCO(str(root), "train", crowd="ignore")) == [ignored, B, EMPTY]


def test_images_that_no_record_names_are_left_out(root: Path) -> None:
    write(root, images=[IMAGES[0], *IMAGES[2:], IMAGES[2] | {"id": 71}], annotations=INSTANCES[:2])
    dataset = COCO(str(root), "train")
    assert dataset.names == ["b_año 1", "empty", "empty"], "two records of one file are two items"
    assert dataset.images_left_out == (str(root / "train2017/a.png"),)


@pytest.mark.filterwarnings("ignore:__array__")
def test_instances_are_pycocotools_own(root: Path) -> None:
    COCOFile = pytest.importorskip("pycocotools.coco").COCO
    theirs, ours = COCOFile(str(root / "annotations/instances_train2017.json")), COCO(str(root), "train")
    for index, image in enumerate((5, 9, 70)):
        masks = [(theirs.annToMask(one).astype(bool), one) for one in theirs.imgToAnns[image]]
        wanted = np.zeros((6, 8), int)
        for mask, one in sorted(masks, key=lambda pair: (not pair[1]["iscrowd"], -pair[0].sum())):
            wanted[mask] = {3: 1, 17: 2, 44: 3}[one["category_id"]]
        assert (np.asarray(ours[index][1]) == wanted).all()


def test_categories_are_chosen_by_name(root: Path) -> None:
    dataset = COCO(str(root), "train", classes={"animal": ("cat", "dog"), "sofá": "ignore", "*": "rest"})
    assert dataset.class_names == ("animal", "rest")
    chosen = [[row.translate(str.maketrans("cds", "aa?")) for row in one] for one in (A, B, EMPTY)]
    assert drawn(dataset, "a.") == chosen


def test_one_file_without_splits_is_divided(root: Path) -> None:
    options = {"annotations": "annotations/instances_train2017.json", "images": "train2017", "val": 0.5}
    train, val = (COCO(str(root), split, **options) for split in ("train", "val"))
    assert sorted(train.names + val.names) == ["a", "b_año 1", "empty"] and train.names and val.names
    assert sorted(drawn(train) + drawn(val)) == sorted([A, B, EMPTY])


def test_panoptic_files(root: Path) -> None:
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:2, :, 0], pixels[2:4] = 7, (1, 2, 3)  # segments 7 and 1 + 2 * 256 + 3 * 65536
    path = root / "annotations/panoptic_train2017/a.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path)
    segments = [{"id": 7, "category_id": 17}, {"id": 197121, "category_id": 44, "iscrowd": 1}]
    write(root, "panoptic_train2017", images=IMAGES[1:2], annotations=[
        {"image_id": 5, "file_name": "a.png", "segments_info": segments},
    ])  # fmt: skip
    options = {"annotations": "annotations/panoptic_{split}2017.json"}
    dataset = COCO(str(root), "train", **options)
    assert dataset.class_names == ("sofá", "cat", "dog")
    assert drawn(dataset, "scd") == [["c" * 8] * 2 + ["d" * 8] * 2 + ["?" * 8] * 2]
    kept = COCO(str(root), "train", classes={"*": "keep", "nothing": "void"}, crowd="ignore", **options)
    assert drawn(kept, "scd.") == [["c" * 8] * 2 + ["?" * 8] * 2 + ["." * 8] * 2]
    pixels[5, 7] = 9
    Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match=r"a\.png: colour \(9, 9, 9\) is no segment that .*json lists for it"):
        dataset[0]
    write(root, "panoptic_train2017", annotations=[{"image_id": 5, "file_name": "a.png", "segments_info": []}])
    with pytest.raises(ValueError, match=r"no annotation is of 'b/año 1\.png' \(2 such images\)"):
        COCO(str(root), "train", **options)
    path.unlink()
    write(root, "panoptic_train2017", images=IMAGES[1:2], annotations=[
        {"image_id": 5, "file_name": "a.png", "segments_info": segments},
    ])  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"panoptic_train2017/a\.png: .* names this image, and it does not"):
        COCO(str(root), "train", **options)


@pytest.mark.parametrize("content, told", [
    ({"images": 3}, "'images' must be a list, and is '3'"),
    ({"categories": []}, "categories: there are none"),
    ({"categories": [{"name": "cat"}]}, "categories: 'id' must be a whole number or a text, and is 'null'"),
    ({"categories": [*CATEGORIES, {"id": 3, "name": "x"}]}, "categories: two have the id 3"),
    ({"annotations": [note(1, 6, 3, [RING])]}, "annotation 1: is of image 6, which is not among the images"),
    ({"annotations": [note(1, 9, 4, [RING])]}, "annotation 1: is of category 4, which is not among the categories"),
    ({"annotations": [note(1, 9, 3, [RING]) | {"iscrowd": "no"}]}, "annotation 1: 'iscrowd' must be 0 or 1, and is 'no'"),
    ({"annotations": ["no"]}, "annotation no. 1: 'image_id' must be a whole number or a text"),
])  # fmt: skip
def test_what_a_file_lacks_is_said_at_once(root: Path, content: dict, told: str) -> None:
    write(root, **content)
    with pytest.raises(ValueError, match=rf"instances_train2017\.json: {told}"):
        COCO(str(root), "train")


@pytest.mark.parametrize("segmentation, told", [
    ([], r"has no segmentation \(polygons or run lengths\); a box alone says nothing of pixels"),
    (None, "has no segmentation"),
    ([[1, 2, 3, 4]], "a polygon has at least three points"),
    ([[1, 2, 3, 4, 5, 6, 7]], "a polygon is a list of numbers x, y, x, y"),
    ([1, 2, 3, 4, 5, 6], "a polygon is a list of numbers x, y, x, y, ..., and not '1'"),
    ([["a", "b"]], "a polygon is a list of numbers"),
    ([[1, 1, 5, 1, float("nan"), 5]], "a polygon's points lie at most 100000 pixels away"),
    ({"size": [8, 6], "counts": [48]}, r"its run lengths are of an image of '\[8, 6\]' .*this one has \[6, 8\]"),
    ({"size": [6, 8], "counts": [40]}, ".* add up to 48, these to 40"),
])  # fmt: skip
def test_what_an_annotation_lacks_is_said_of_it(root: Path, segmentation: object, told: str) -> None:
    write(root, annotations=[note(12, 5, 3, segmentation)])
    with pytest.raises(ValueError, match=rf"instances_train2017\.json: annotation 12, of .*a\.png: {told}"):
        COCO(str(root), "train")[0]


def test_files_that_do_not_fit(root: Path) -> None:
    Image.new("RGB", (6, 8)).save(root / "train2017/a.png")
    with pytest.raises(ValueError, match=r"a\.png is 8x6 but its label .*instances_train2017\.json is 6x8"):
        COCO(str(root), "train")[0]
    (root / "train2017/empty.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train2017/empty\.png: .*json names this image.*\(1 of 3 do not\)"):
        COCO(str(root), "train")
    with pytest.raises(FileNotFoundError, match=r"instances_val2017\.json: no such file. Expected layout: <root>/ann"):
        COCO(str(root), "val")
    for text, told in (
        ("{", "is no JSON"),
        (f'{{"a": {"1" * 5000}}}', "val2017.json: is no JSON"),
        ("[]", "expected an object, {...}, and it is a list"),
    ):
        (root / "annotations/instances_val2017.json").write_text(text)
        with pytest.raises(ValueError, match=told):
            COCO(str(root), "val")
