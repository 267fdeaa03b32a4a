"""Data sets as they enter: whatever a data set ignores is 255 from there on, and ids that cannot be are refused."""

import pickle

import numpy as np
import pytest
from PIL import Image

from segkd.runner.loading.train_ids import TrainIds


class Own:
    """A data set of the user's own: one image, whose label holds the given ids in turn."""

    class_names, palette = ["a", "b", "c"], [(0, 0, 0)] * 3

    def __init__(self, ids, ignore_index=255, num_classes=3, image="RGB", label="L", size=(4, 3)):
        self.ignore_index, self.num_classes, self.kinds, self.size = ignore_index, num_classes, (image, label), size
        self.ids = np.resize(np.array(ids, np.uint8), (3, 4))

    def __len__(self):
        return 1

    def __getitem__(self, index):
        image, label = self.kinds
        return Image.new(image, self.size), Image.fromarray(self.ids).convert(label)

    def name(self, index):
        return "street_1"


@pytest.mark.parametrize("ids, ignore_index, expected", [
    ([0, 2, 255], 255, [0, 2, 255]),
    ([0, 2, 11], 11, [0, 2, 255]),
    ([0, 2, 255], 11, [0, 2, 255]),
    ([0, 2, 1], -100, [0, 2, 1]),
    ([0, 2, 1], 0, [255, 2, 1]),
])  # fmt: skip
def test_what_a_data_set_ignores_is_255(ids, ignore_index, expected):
    dataset = pickle.loads(pickle.dumps(TrainIds(Own(ids, ignore_index))))
    image, target = dataset[0]
    assert image.mode == "RGB" and target.mode == "L"
    np.testing.assert_array_equal(np.asarray(target), np.resize(expected, (3, 4)))
    assert (dataset.ignore_index, dataset.num_classes, len(dataset), dataset.name(0)) == (255, 3, 1, "street_1")


@pytest.mark.parametrize("changes, told", [
    ({"ids": [0, 3]}, r"Own: street_1: its label holds the ids 3, and .* 0\.\.2 \(num_classes is 3\), .* ignore_index, 255;"),
    ({"ids": range(3, 15), "ignore_index": 7}, r"the ids 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, \.\.\., .* ignore_index, 7;"),
    ({"ids": [0], "image": "RGBA"}, "street_1: an item must be an image of mode RGB and a label of mode L.*RGBA and L"),
    ({"ids": [0], "label": "I"}, "got RGB and I"),
    ({"ids": [0], "size": (5, 3)}, r"street_1 is 3x5 but its label .* is 3x4"),
])  # fmt: skip
def test_items_that_cannot_be_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        TrainIds(Own(**changes))[0]
