"""What is told of images and labels: counted by hand for a data set of four."""

import numpy as np
import pytest
from PIL import Image

from segkd.runner.loading import data_report
from segkd.runner.loading.data_report import (
    count,
    never_seen,
    sampled,
    told_classes,
    told_files,
    told_sizes,
)
from segkd.runner.recipe.read import read


class Four:
    """Four images, 2x3 and one 4x3, whose labels hold 0, 1, 2 and 255 but never 3."""

    class_names, ignore_index, num_classes, palette = ("sky", "road", "car", "bus"), 255, 4, ()
    labels = [[[0, 0, 1], [1, 1, 255]], [[0, 0, 0], [0, 0, 0]], [[2, 0, 0], [0, 0, 0]], np.ones((4, 3))]

    def __len__(self):
        return 4

    def __getitem__(self, index):
        target = Image.fromarray(np.array(self.labels[index], np.uint8))
        return Image.new("RGB", target.size), target

    def name(self, index):
        return f"ü {index}"


@pytest.fixture
def recipe(folder):
    return read(folder / "tiny.yaml")


def test_counts(recipe):
    counted = count(Four(), None, recipe)
    assert counted.pixels[[0, 1, 2, 3, 255]].tolist() == [13, 15, 1, 0, 1] and counted.pixels.sum() == 30
    assert counted.images[[0, 1, 2, 3, 255]].tolist() == [3, 2, 1, 0, 1] and counted.words == "all 4"
    assert never_seen(Four(), counted) == ["bus"]
    assert told_sizes(counted, counted) == "2x3 to 4x3 (height x width), median 2x3, from which 2 of 8 images differ"
    two = count(Four(), 2, recipe)
    assert two.words == "2 of the 4" and len(two.sizes) == 2


def test_a_sample_stays_when_others_come():
    few, many = range(100), range(130)
    name = staticmethod(lambda index: f"{index}.png")

    class Named(list):
        pass

    Named.name = name
    before, after = (sampled(Named(names), 20) for names in (few, many))
    assert len(before) == len(after) == 20 and before == sorted(before)
    assert {index for index in after if index < 100} <= set(before), "those that are left were there before"


def test_the_table(recipe, monkeypatch):
    counted = count(Four(), None, recipe)
    lines = list(told_classes(Four(), counted, count(Four(), 2, recipe)))
    assert lines[0] == "all 4 to train on | 2 of the 4 to score: share of the pixels, and in how many images"
    assert lines[1].startswith("sky      43.3%      3 | ") and lines[4].startswith("bus       0.0%      0 | ")
    assert lines[5].startswith("ignored   3.3%      1") and len(lines) == 6
    monkeypatch.setattr(data_report, "ROWS", 2)
    assert [line.split()[0] for line in list(told_classes(Four(), counted, counted))[1:]] == [
        "road", "...", "bus", "ignored"]  # fmt: skip


def test_an_item_that_cannot_be_read_ends_it(recipe):
    class Broken(Four):
        def __getitem__(self, index):
            raise ValueError(f"{index}.png: cannot be decoded")

    with pytest.raises(ValueError, match="0.png: cannot be decoded"):
        count(Broken(), None, recipe)


class Files:
    """A data set of these files, with some left over."""

    def __init__(self, files, images_left_out=(), labels_left_out=()):
        self.files, self.images_left_out, self.labels_left_out = files, images_left_out, labels_left_out


@pytest.mark.parametrize("part", [lambda dataset: dataset, lambda dataset: type("Part", (), {"dataset": dataset})()])
def test_files_left_over(part):
    train = part(Files([("a", "A"), ("b", None)], images_left_out=("c",), labels_left_out=("C", "D")))
    val = Files([("c", "C")], images_left_out=("a",), labels_left_out=("A", "D"))
    assert list(told_files(train, val)) == [
        "images that have no label file: 1, such as b", "labels that belong to no image: 1, such as D"]  # fmt: skip
    assert list(told_files(Four(), Four())) == []
