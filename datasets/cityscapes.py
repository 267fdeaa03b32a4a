"""Cityscapes: 1024x2048 street scenes of 50 cities, 19 classes, 2975 train, 500 val and 1525 test images.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016, arXiv 1604.01685.
"""

from typing import Literal

from ._files import LabelledFiles, image_names, lookup_table, pair_labels, require_images, require_split

LAYOUT = (
    "<root>/leftImg8bit/{train,val,test}/<city>/<frame>_leftImg8bit.png and "
    "<root>/gtFine/{train,val}/<city>/<frame>_gtFine_<labels>.png"
)
SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}
# the 34 ids of the label files that are classes of the benchmark, in the order of the 19 train ids
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TABLES = {
    # the licence plate's -1 is 255 in an 8-bit file
    "labelIds": lookup_table(
        {raw: train_id for train_id, raw in enumerate(LABEL_IDS)},
        ignore=[raw for raw in (*range(34), 255) if raw not in LABEL_IDS],
    ),
    "labelTrainIds": lookup_table({index: index for index in range(19)}),
}
RULES = {
    "labelIds": "labelIds files hold 0..33 (and 255); files with train ids need labels: labelTrainIds",
    "labelTrainIds": "labelTrainIds files hold 0..18 and 255; the release's own files need labels: labelIds",
}


class Cityscapes(LabelledFiles):
    """Images and targets of Cityscapes (fine annotations).

    Args:
        root: the folder that holds `leftImg8bit` and `gtFine`.
        split: train, val, trainval or test. The test labels are not public: its targets are 255 everywhere.
        labels: which label files to read: `labelIds` (of the release, 34 ids mapped to 19) or `labelTrainIds`.

    Items: (image, target): RGB image and mode L target with train ids 0..18, 255 for all other ids. Their names are
    <city>_<sequence>_<frame>, e.g. aachen_000000_000019.
    """

    num_classes = 19
    class_names = (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    )  # fmt: skip
    palette = (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
        (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    )  # fmt: skip

    def __init__(self, root: str, split: str, *, labels: Literal["labelIds", "labelTrainIds"] = "labelIds"):
        self.table, self.rule = TABLES[labels], RULES[labels]
        self.files, paths = [], []
        for part in SPLITS[require_split(split, SPLITS)]:
            images = require_images(f"{root}/leftImg8bit/{part}", LAYOUT, "_leftImg8bit")
            paths += [f"{part}/{key}" for key in images]
            if part == "test":
                self.files += [(image, None) for image in images.values()]
            else:
                self.files += pair_labels(images, f"{root}/gtFine/{part}", LAYOUT, f"_gtFine_{labels}")
        self.names = image_names(paths, lambda path: path.rpartition("/")[2])
