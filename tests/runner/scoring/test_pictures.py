"""Panels and curves: colours, sizes and which images they show."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from segkd.models._prediction import Normalize, Prediction
from segkd.runner.recipe.read import read
from segkd.runner.scoring import pictures
from segkd.runner.scoring.pictures import LARGEST, alike, beside, colored, error_map, panels, shown_indices

PALETTE = ((10, 20, 30), (40, 50, 60), (70, 80, 90))
RED, LIGHT, BLACK = (220, 40, 40), (235, 235, 235), (0, 0, 0)


def pixels_of(picture):
    return [tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()]


def test_colours_are_the_palette_and_void_is_black():
    labels = np.array([[0, 1, 2], [3, 254, 255]])
    picture = colored(labels, PALETTE)
    assert (np.asarray(picture) == labels).all() and picture.size == (3, 2)
    assert pixels_of(picture) == [*PALETTE, BLACK, BLACK, BLACK]


@pytest.mark.parametrize("ignore_index", [255, 0])
def test_error_map(ignore_index):
    prediction, target = np.array([[1, 1, 2, 2]]), np.array([[1, 2, ignore_index, 2]])
    picture = error_map(prediction, target, ignore_index)
    assert pixels_of(picture) == [LIGHT, RED, BLACK, LIGHT]


@pytest.mark.parametrize("height, width, factor", [
    (32, 48, 8), (96, 128, 3), (180, 240, 2), (240, 320, 1), (20, 480, 2), (360, 480, 1), (1024, 2048, 480 / 2048),
    (2000, 100, 480 / 2000),
])  # fmt: skip
def test_tiles_stand_beside_each_other_and_can_be_seen(height, width, factor):
    levels = {"image": 200, "label": 100, "error": 50}
    tiles = {name: Image.new("RGB", (width, height), (level,) * 3) for name, level in levels.items()}
    tiles["label"] = Image.new("RGB", (2 * width, height), (100, 100, 100))  # labels keep their size, images may not
    high, wide = round(height * factor), round(width * factor)
    picture = beside(alike(tiles))
    assert picture.size == (3 * wide + 2 * 4, high + 16) and max(high, wide) <= 2 * LARGEST
    pixels = np.asarray(picture)
    for column, level in enumerate(levels.values()):
        assert (pixels[16:, column * (wide + 4) : column * (wide + 4) + wide] == level).all()
    assert (pixels[16:, wide : wide + 4] == 255).all()


def test_shown_indices_are_spread_evenly():
    assert shown_indices(range(101), 5) == [0, 25, 50, 75, 100]
    assert [shown_indices(range(length), count) for length, count in ((3, 8), (9, 1), (9, 0))] == [[0, 1, 2], [0], []]


class Scenes:
    """Three images whose target is class 1 on the left, 0 on the right, void in the first row."""

    num_classes, ignore_index, palette = 3, 255, PALETTE

    def __len__(self):
        return 3

    def __getitem__(self, index):
        target = np.zeros((8, 12), np.uint8)
        target[:, :6], target[0] = 1, 255
        return Image.new("RGB", (12, 8), (50 * index, 0, 0)), Image.fromarray(target)

    def name(self, index):
        return f"town/scene_{index}"


class Constant(nn.Module):
    """Predicts one class everywhere."""

    def __init__(self, label):
        super().__init__()
        self.label, self.normalize = label, Normalize.named("none")

    def forward(self, images):
        assert not self.training
        classes = torch.full((len(images), 8, 12), self.label)
        return Prediction(nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float())


def test_panels(folder):
    recipe = read(folder / "tiny.yaml", ["tracking.images=2"])
    networks = {"teacher": Constant(0).eval(), "student": Constant(1).train()}
    files = panels(networks, Scenes(), recipe, Accelerator(cpu=True), folder / "panels")
    assert [file.name for file in files] == ["town_scene_0.png", "town_scene_2.png"]
    assert not networks["teacher"].training and networks["student"].training
    pixels = np.asarray(Image.open(files[1]))
    assert pixels.shape == (240 + 16, 5 * 360 + 4 * 4, 3)
    # each pixel of 8 x 12 is shown 30 times in both directions
    image, label, teacher, student, error = (pixels[16::30, left : left + 360 : 30] for left in range(0, 5 * 364, 364))
    assert (image == (100, 0, 0)).all()
    assert (label[0] == BLACK).all() and (label[1:, :6] == PALETTE[1]).all() and (label[1:, 6:] == PALETTE[0]).all()
    assert (teacher == PALETTE[0]).all() and (student == PALETTE[1]).all()
    # the student's errors: everything on the right
    assert (error[0] == BLACK).all() and (error[1:, :6] == LIGHT).all() and (error[1:, 6:] == RED).all()
    # the same, tile by tile
    (teacher, student) = (Image.open(folder / f"panels/tiles/town_scene_2/{name}.png") for name in networks)
    assert (np.asarray(teacher) == 0).all() and (np.asarray(student) == 1).all()
    assert (np.asarray(student.convert("RGB")) == PALETTE[1]).all()
    assert sorted(file.stem for file in (folder / "panels/tiles/town_scene_2").iterdir()) == sorted(
        ["image", "label", *networks, "error"]
    )
    none = read(folder / "tiny.yaml", ["tracking.images=0"])
    assert panels(networks, Scenes(), none, Accelerator(cpu=True), folder / "none") == []


@pytest.mark.parametrize("length", [1, 3, 200])
def test_curves(tmp_path, length):
    rows = [
        {"iteration": i + 1, "lr": 0.1, "weighted/ce": 1.0 / (i + 1)} | ({"weighted/kl": 0.5} if i > 1 else {})
        for i in range(length)
    ]
    rows[-1]["miou"] = 0.5
    file = pictures.curves(rows, tmp_path / "curves.png")
    assert Image.open(file).size == (1200, 320)
    assert (np.asarray(Image.open(file).convert("RGB")) != 255).any(-1).mean() > 0.01


@pytest.mark.parametrize("count, side", [(3, 300), (150, 2400)])
def test_the_confusion_picture_has_room_for_every_name(tmp_path, count, side):
    matrix = torch.eye(count, dtype=torch.int64) * 5 + 1
    matrix[1] = 0  # never labelled
    file = pictures.confusion_picture(matrix, [f"class {index}" for index in range(count)], tmp_path / "confusion.png")
    assert min(Image.open(file).size) >= side and list(tmp_path.iterdir()) == [file]


def test_images_under_their_labels_in_one_picture():
    class Small:
        palette, class_names = PALETTE, ("a", "b", "c")

        def __getitem__(self, index):
            return Image.new("RGB", (8, 6), (100, 100, 100)), Image.new("L", (8, 6), (0, 2, 255)[index])

        def name(self, index):
            return f"number {index}"

    picture = pictures.overlays([(Small(), [0, 1]), (Small(), [2, 2, 2])])
    pixels = np.asarray(picture)
    # rows of four, each 16 pixels of name above 6 of image; colours half those of the labels
    assert [pixels[18, left].tolist() for left in (0, 12, 24)] == [[55, 60, 65], [85, 90, 95], [50, 50, 50]]
    assert pixels[16 + 6 + 18, 0].tolist() == [50, 50, 50] and picture.height > 2 * 22 + 3 * 15
