"""Folders of every format, as small as they can be: which data set reads them, with which arguments and splits."""

import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.runner.drafting.formats import find_data
from segkd.runner.recipe import parts

NOISE = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
IDS = (np.arange(400) % 3).astype(np.uint8).reshape(20, 20)
POLYGON = [[1, 1], [7, 1], [7, 7]]


def image(path: Path, pixels=NOISE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def text(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def coco_json(*names: str) -> dict:
    notes = [
        {"image_id": number, "category_id": 4, "segmentation": [[1, 1, 7, 1, 7, 7]]} for number in range(len(names))
    ]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    return {"images": images, "annotations": notes, "categories": [{"id": 4, "name": "leaf"}]}


def labelme_json(name: str) -> dict:
    return {"shapes": [{"label": "leaf", "points": POLYGON}], "imagePath": name, "imageData": None}


def coco(root):
    for split in ("train", "val"):
        image(root / split / "images/a ü.jpg")
        text(root / f"{split}/labels.json", coco_json("a ü.jpg"))
    return "coco", {"annotations": "{split}/labels.json", "images": "{split}/images"}, "train", "val"


def coco_alone(root):
    for number in range(4):
        image(root / f"JPEGImages/{number}.jpg")
    text(root / "annotations.json", coco_json(*(f"JPEGImages/{number}.jpg" for number in range(4))))
    return "coco", {"annotations": "annotations.json", "images": "", "val": 0.2}, "train", "val"


def coco_of_windows(root):
    for number in range(12):
        image(root / f"im\u0303ages/{number}.jpg")
    text(root / "annotations.json", coco_json(*(f".\\i\u006d\u0303ages\\{number}.jpg" for number in range(12))))
    return "coco", {"annotations": "annotations.json", "images": "", "val": 0.2}, "train", "val"


def yolo(root):
    for split in ("train", "valid"):
        image(root / split / "images/a.jpg")
        text(root / split / "labels/a.txt", "0 .1 .1 .9 .1 .9 .9\n")
    text(root / "my data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [leaf]\nnc: 1\n")
    return "yolo", {"data": "my data.yaml"}, "train", "val"


def yolo_alone(root):
    for number in range(4):
        image(root / f"images/{number}.jpg")
        text(root / f"labels/{number}.txt", "0 .1 .1 .9 .1 .9 .9\n")
    text(root / "data.yaml", "train: images\nval: images\nnames: [leaf]\n")
    return "yolo", {"val": 0.2}, "train", "val"


def labelme(root):
    for split in ("training", "test"):
        image(root / split / "a.JPG")
        text(root / split / "a.json", labelme_json("a.JPG"))
    return "labelme", {}, "training", "test"


def labelme_alone(root):
    for number in range(4):
        image(root / f"{number}.jpg")
        text(root / f"{number}.json", labelme_json(f"{number}.jpg"))
    return "labelme", {"labels": "", "val": 0.2}, "train", "val"


def cvat(root):
    for name in ("a b", "c"):
        image(root / f"JPEGImages/{name}.jpg")
        image(root / f"SegmentationClass/{name}.png", np.zeros((20, 20, 3), np.uint8))
    for subset, name in (("Train", "a b"), ("Validation", "c")):
        text(root / f"ImageSets/Segmentation/{subset}.txt", name)
    text(root / "labelmap.txt", "background:0,0,0::\nleaf:1,2,3::\n")
    return "cvat", {}, "Train", "Validation"


def cvat_task(root):
    cvat(root)
    (root / "ImageSets/Segmentation/Validation.txt").unlink()
    text(root / "ImageSets/Segmentation/Train.txt", "a b\nc\n")
    (root / "ImageSets/Segmentation/Train.txt").rename(root / "ImageSets/Segmentation/default.txt")
    return "cvat", {"subset": "default", "val": 0.2}, "train", "val"


def voc(root):
    for split, name in (("train", "2007_000001"), ("val", "2007_000002")):
        image(root / f"JPEGImages/{name}.jpg")
        image(root / f"SegmentationClass/{name}.png", IDS)
        text(root / f"ImageSets/Segmentation/{split}.txt", name)
    return "voc", {}, "train", "val"


def cityscapes(root):
    for split in ("train", "val"):
        image(root / f"leftImg8bit/{split}/ulm/ulm_1_leftImg8bit.png")
        image(root / f"gtFine/{split}/ulm/ulm_1_gtFine_labelTrainIds.png", IDS)
    return "cityscapes", {"labels": "labelTrainIds"}, "train", "val"


def camvid(root):
    for split in ("train", "val"):
        image(root / split / "a.png")
        image(root / f"{split}annot/a.png", np.where(IDS == 2, np.uint8(11), IDS))
    return "camvid", {}, "train", "val"


def as_camvid_lies(root):
    for split in ("train", "test"):
        image(root / split / "a.png")
        image(root / f"{split}annot/a.png", IDS * np.uint8(100))
    names = {"class_names": ["class 0", "class 100", "class 200"], "lookup": {0: 0, 100: 1, 200: 2}}
    return "folder", {"images": "{split}/{name}.*", "labels": "{split}annot/{name}.*", **names}, "train", "test"


def ade20k(root):
    for part, kind in (("training", "train"), ("validation", "val")):
        image(root / f"images/{part}/ADE_{kind}_1.jpg")
        image(root / f"annotations/{part}/ADE_{kind}_1.png", IDS)
    return "ade20k", {}, "train", "val"


def in_folders(root):
    for split in ("train", "dev", "test"):
        image(root / split / "images/a.jpg")
        image(root / split / "masks/a.png", IDS)
    names = {"class_names": ["class 0", "class 1", "class 2"]}
    return "folder", {"images": "{split}/images/{name}.*", "labels": "{split}/masks/{name}.*", **names}, "train", "dev"


def without_splits(root):
    for number in range(4):
        image(root / f"a b {number}.jpg")
        image(root / f"a b {number}_mask.png", (IDS > 0) * np.uint8(255))
    image(root / "c.jpg")
    names = {"class_names": ["background", "foreground"], "lookup": {0: 0, 255: 1}, "without_label": "skip"}
    return "folder", {"images": "{name}.*", "labels": "{name}_mask.*", **names, "val": 0.2}, "train", "val"


def one_split_of_several(root):
    for number in range(4):
        image(root / f"images/train/{number}.jpg")
        image(root / f"labels/train/{number}.png", IDS)
    text(root / "labels/classes.txt", "no names here are looked at")
    names = {"class_names": ["class 0", "class 1", "class 2"]}
    return "folder", {"images": "images/train/{name}.*", "labels": "labels/train/{name}.*", **names, "val": 0.2}, \
        "train", "val"  # fmt: skip


def with_lists(root):
    for number in range(4):
        image(root / f"images/{number}.jpg")
        image(root / f"masks/{number}.png", IDS)
    text(root / "lists/train.txt", "2\n0\n")
    text(root / "lists/valid.txt", "images/3.jpg\n")
    text(root / "lists/names.txt", "not this one\n")
    names = {"class_names": ["class 0", "class 1", "class 2"], "list_file": "lists/{split}.txt"}
    return "folder", {"images": "images/{name}.*", "labels": "masks/{name}.*", **names}, "train", "valid"


def with_lists_of_pairs(root):
    found = with_lists(root)
    text(root / "lists/train.txt", "images/2.jpg masks/2.png\n")
    text(root / "lists/valid.txt", "images/3.jpg masks/0.png\n")
    return found


def with_lists_of_longer_names(root):
    dataset, args, *_ = with_lists(root)
    (root / "lists/train.txt").rename(root / "lists/fold0_train.txt")
    (root / "lists/valid.txt").rename(root / "lists/fold0_valid.txt")
    text(root / "lists/train.txt", "trained on Monday\n")
    text(root / "lists/val.txt", "")
    return dataset, args | {"list_file": "lists/fold0_{split}.txt"}, "train", "valid"


def with_lists_of_others(root):
    dataset, args, *_ = with_lists(root)
    text(root / "lists/valid.txt", "9\n")
    del args["list_file"]
    return dataset, args | {"val": 0.2}, "train", "val"


LAID = [coco, coco_alone, coco_of_windows, yolo, yolo_alone, labelme, labelme_alone, cvat, cvat_task, voc, cityscapes, camvid,
        as_camvid_lies, ade20k, in_folders, without_splits, one_split_of_several, with_lists,
        with_lists_of_pairs, with_lists_of_longer_names, with_lists_of_others]  # fmt: skip


@pytest.mark.parametrize("lay", LAID)
@pytest.mark.parametrize("around", ["", "as unpacked/"])
def test_what_reads_a_folder(tmp_path, lay, around):
    wanted = lay(tmp_path / "data" / around)
    (tmp_path / "data/__MACOSX").mkdir()
    found = find_data(str(tmp_path / "data"))
    assert (found.dataset, found.args, found.train, found.val) == wanted
    assert found.root == str(tmp_path / "data" / around).rstrip("/")
    for split in (found.train, found.val):
        args = found.args | {"val": 0.5} if "val" in found.args else found.args
        dataset = parts.build("datasets", found.dataset, args, found.root, split)
        assert dataset[0][1].size == (20, 20)


def test_a_hugging_face_set(tmp_path):
    text(tmp_path / "a/dataset_dict.json", {"splits": ["train", "validation"]})
    found = find_data(str(tmp_path / "a"))
    assert (found.dataset, found.args, found.train, found.val) == ("huggingface", {}, "train", "validation")
    text(tmp_path / "saved/dataset_dict.json", {"splits": ["train", "val"]})
    assert find_data(str(tmp_path / "saved")).val == "val", "its own word"
    (tmp_path / "b/data").mkdir(parents=True)
    for name in ("train-0.parquet", "valid-0.parquet"):
        (tmp_path / "b/data" / name).touch()
    found = find_data(str(tmp_path / "b"))
    assert (found.dataset, found.train, found.val) == ("huggingface", "train", "validation")
    text(tmp_path / "c/train/metadata.csv", "file_name,mask_file_name\n")
    found = find_data(str(tmp_path / "c"))
    assert (found.dataset, found.args) == ("huggingface", {"val": 0.1})


def test_twelve_classes_of_ones_own_are_not_camvids(tmp_path):
    dataset, *_ = camvid(tmp_path / "a")
    assert dataset == find_data(str(tmp_path / "a")).dataset == "camvid"
    text(tmp_path / "a/classes.txt", "\n".join(f"kind{index}" for index in range(12)))
    found = find_data(str(tmp_path / "a"))
    assert found.dataset == "folder" and "kind11" in found.args["class_names"]


@pytest.mark.parametrize("file, content", [
    ("data.yaml", {"names": None, "train": "images", "val": "other"}), ("data.yaml", {"names": 3, "train": "images"}),
    ("a.json", {"images": ["a.jpg"], "annotations": [1], "categories": [2]}),
])  # fmt: skip
def test_files_that_are_broken_are_sentences(tmp_path, file, content):
    image(tmp_path / "a.jpg")
    text(tmp_path / file, content)
    with suppress(ValueError, FileNotFoundError):
        found = find_data(str(tmp_path))
        parts.build("datasets", found.dataset, found.args, found.root, found.train)


def test_what_cannot_be_guessed_is_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data .*nowhere: there is no such folder"):
        find_data(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="there are no images in it; one of these is read: a mask for each image"):
        find_data(str(tmp_path))
    image(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="1 images and no labels that are known; one of these .*<name>_mask.png"):
        find_data(str(tmp_path))
    text(tmp_path / "b/instances.json", coco_json("elsewhere/x.jpg"))
    with pytest.raises(ValueError, match=r"b/instances\.json names, such as elsewhere/x\.jpg, are not below this"):
        find_data(str(tmp_path))


def test_what_to_do_with_masks_of_one_class_each_is_told(tmp_path):
    for number in range(4):
        image(tmp_path / f"images/{number}.jpg")
        for kind in range(8):
            image(tmp_path / f"masks/{number}_{kind}.png", (IDS == 1) * np.uint8(255))
    (told,) = [line for line in find_data(str(tmp_path)).said if "of the same images" in line]
    assert re.search(r"also masks/\{name\}_1.* and 2 more, which are not read .*merge those of an image into one", told)


@pytest.mark.parametrize("file", ["train.csv", "lists/Split.csv", "dev_ids.tsv", "folds.txt"])
def test_what_may_divide_the_images_and_cannot_be_read_is_told(tmp_path, file):
    one_split_of_several(tmp_path)
    assert not [line for line in find_data(str(tmp_path)).said if "cannot be read" in line]
    text(tmp_path / file, "image,mask\n0,0\n")
    (told,) = [line for line in find_data(str(tmp_path)).said if "cannot be read" in line]
    assert told.startswith(f"{file} may say which images are to be scored") and "train.txt and val.txt" in told


@pytest.mark.parametrize("mask, file", [
    ("{}/a_mask.png", "{}/_classes.csv"), ("{}/masks/a.png", "{}/masks/labels.txt"), ("masks/{}.png", "classes.csv"),
])  # fmt: skip
def test_names_of_classes_may_lie_beside_the_masks(tmp_path, mask, file):
    for split in ("train", "valid"):
        image(tmp_path / mask.format(split).replace("_mask", "").replace("masks", "images"))
        image(tmp_path / mask.format(split), IDS)
        text(tmp_path / file.format(split), "Pixel Value, Class\n0, soil\n1, crop\n2, weed\n")
    found = find_data(str(tmp_path))
    assert found.args["class_names"] == ["soil", "crop", "weed"] and f"in {Path(file).name}" in "".join(found.said)
