"""CamVid in SegNet's arrangement: 480x360 road scenes, 11 classes, 367 train, 101 val and 233 test images.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009.
"""

from ._files import LabelledFiles, image_names, lookup_table, pair_labels, require_images, require_split

LAYOUT = "<root>/{train,val,test}/<name>.png (or .jpg) and <root>/{train,val,test}annot/<name>.png"
SPLITS = {"train": ("train",), "val": ("val",), "test": ("test",), "trainval": ("train", "val")}
# label files hold 0..10 and 11 for unlabelled pixels
TABLE = lookup_table({index: index for index in range(11)}, ignore=(11, 255))


class CamVid(LabelledFiles):
    """Images and targets of CamVid.

    Args:
        root: the folder that holds `train`, `trainannot` and so on; images may be PNG or JPEG.
        split: train, val, test or trainval.

    Items: (image, target): RGB image and mode L target with train ids 0..10, 255 where nothing is labelled. Their names
    are file stems, e.g. 0001TP_008550.
    """

    num_classes = 11
    class_names = (
        "sky", "building", "pole", "road", "pavement", "tree",
        "sign symbol", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    palette = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )  # fmt: skip
    table, rule = TABLE, "CamVid's ids are 0..10 and 11 for unlabelled pixels"

    def __init__(self, root: str, split: str):
        self.files, paths = [], []
        for part in SPLITS[require_split(split, SPLITS)]:
            images = require_images(f"{root}/{part}", LAYOUT)
            paths += [f"{part}/{key}" for key in images]
            self.files += pair_labels(images, f"{root}/{part}annot", LAYOUT)
        self.names = image_names(paths, lambda path: path.partition("/")[2])
