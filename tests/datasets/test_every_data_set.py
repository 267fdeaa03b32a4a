"""What holds for all data sets alike, and what the signatures of data sets and views refuse."""

import numpy as np
import pytest
from PIL import Image

from segkd.datasets.ade20k import ADE20K
from segkd.datasets.camvid import CamVid
from segkd.datasets.cityscapes import Cityscapes
from segkd.datasets.coco_stuff import CocoStuff
from segkd.datasets.synthetic import Synthetic
from segkd.datasets.voc import VOC
from segkd.runner.recipe.parts import wrong_arguments

# part of datasets/ -> argument -> values out of its range
REFUSED = {
    "_transforms": {
        "scale": ["width"], "scale_range": [[0.0, 2.0], [0.5, 1.0, 2.0]], "scale_step": [0], "base_size": [0, [512, 0]],
        "flip": [3, -0.1, "often"], "max_class_share": [0, 1.01], "jitter": [1.5], "grey": [-1], "blur": [2],
        "jitter_strength": [[0.5, 0.5, 0.5, 0.6], [-0.5, 0.5, 0.5, 0.5]], "blur_radius": [[-1, 1]],
        "pad_image": [[0, 0, 256]], "pad_label": [-1], "flip_vertical": [2], "rotation": [-1, 46], "quarter_turns": [1],
    },
    "_strong": {
        "jitter": [1.5], "grey": [-1], "blur": [2], "cutmix": [2.0], "cutmix_area": [[0.5, 1.0], [0, 0.5]],
        "cutmix_ratio": [[0, 1]],
    },
    "_mixing": {"kind": ["mosaic"], "probability": [1.5], "area": [0, 1.5]},
    "synthetic": {"size": [[16, 64]], "length": [0], "seed": [-1]},
    "cityscapes": {"labels": ["ids"]},
    "coco_stuff": {"classes": [172]},
    "folder": {
        "class_names": [[]], "palette": [[[0, 0, 256]]], "lookup": [{256: 0}, {0: -1}], "ignore": [[256]],
        "void_colors": [[[-1, 0, 0]]], "colors": [{"a": [0, 0, 256]}], "classes": [{"a": []}, {"a": 1}],
        "val": [0, 1, "half"], "without_label": ["ignore"],
    },
    "coco": {"overlap": ["size"], "crowd": ["keep"]}, "yolo": {"overlap": ["size"]}, "labelme": {"label_names": [[]]},
    "cvat": {"val": [1.5]}, "huggingface": {"id2label": [{256: "a"}, {0: 1}], "reduce_labels": ["yes"]},
}  # fmt: skip
NEEDED = {"folder": {"class_names": ["a", "b"]}}


@pytest.mark.parametrize("part, argument", [(part, argument) for part in REFUSED for argument in REFUSED[part]])
def test_arguments_out_of_range_are_refused(part, argument):
    for wrong in REFUSED[part][argument]:
        mistakes = wrong_arguments("datasets", part, NEEDED.get(part, {}) | {argument: wrong})
        assert mistakes and all(key[0] == argument for key, _ in mistakes), wrong


@pytest.mark.parametrize("part, arguments", [
    ("_transforms", {"flip": 1, "scale_range": [1, 1], "base_size": 1, "max_class_share": 1, "blur_radius": [0, 0]}),
    ("_strong", {"jitter": 0, "cutmix": 1, "cutmix_area": [0.1, 0.1]}),
    ("_mixing", {"probability": 0, "area": 1}),
    ("synthetic", {"size": [32, 32], "length": 1}),
    ("folder", {"class_names": ["a"], "lookup": {0: 255, 255: 0}, "void_colors": [[0, 0, 255]]}),
])  # fmt: skip
def test_the_ends_of_ranges_are_allowed(part, arguments):
    assert wrong_arguments("datasets", part, arguments) == []


@pytest.mark.parametrize("kind, num_classes", [
    (ADE20K, 150), (CamVid, 11), (Cityscapes, 19), (CocoStuff, 182), (Synthetic, 8), (VOC, 21),
])  # fmt: skip
def test_classes_and_splits(kind, num_classes, tmp_path):
    assert len(set(kind.class_names)) == len(set(kind.palette)) == kind.num_classes == num_classes
    assert kind.ignore_index == 255
    with pytest.raises(ValueError, match="no split called 'training'; there are: train, val"):
        kind(str(tmp_path), "training")
    if kind is not Synthetic:
        with pytest.raises(FileNotFoundError, match="Expected layout: <root>/"):
            kind(str(tmp_path), "val")


@pytest.mark.parametrize("kind, image", [
    (ADE20K, "images/testing/ADE_test_00000001.jpg"),
    (ADE20K, "release_test/testing/ADE_test_00000001.jpg"),
    (Cityscapes, "leftImg8bit/test/berlin/berlin_000002_000019_leftImg8bit.png"),
    (VOC, "JPEGImages/2008_000003.jpg"),
])  # fmt: skip
def test_test_images_have_nothing_to_count(kind, image, tmp_path):
    file = tmp_path / image
    file.parent.mkdir(parents=True)
    Image.new("RGB", (5, 3)).save(file)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/test.txt").write_text("2008_000003\n")
    dataset = kind(str(tmp_path), "test")
    image, target = dataset[0]
    assert len(dataset) == 1 and dataset.name(0) == file.stem.removesuffix("_leftImg8bit")
    assert target.size == image.size == (5, 3) and (np.asarray(target) == 255).all()
