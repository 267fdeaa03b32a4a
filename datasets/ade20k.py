"""ADE20K, the scene parsing benchmark of 2016: 150 classes, 20210 training and 2000 validation images.

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

from pathlib import Path

from ._files import LabelledFiles, lookup_table, pair_labels, require_images, require_split
from ._palettes import bit_palette

LAYOUT = (
    "<root>/images/{training,validation}/<name>.jpg and <root>/annotations/{training,validation}/<name>.png, "
    "for test <root>/images/testing/<name>.jpg or <root>/release_test/testing/<name>.jpg"
)
SPLITS = {"train": "training", "val": "validation", "test": "testing"}
# label files count from 1; 0 is everything outside the 150 classes
TABLE = lookup_table({raw: raw - 1 for raw in range(1, 151)}, ignore=(0,))

CLASS_NAMES = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
    seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
    counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
    pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
    countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
    light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel,
    pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt,
    canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven,
    ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture,
    hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower,
    radiator, glass, clock, flag
"""


class ADE20K(LabelledFiles):
    """Images and targets of ADE20K (the challenge's release, ADEChallengeData2016).

    Args:
        root: the folder that holds `images` and `annotations`.
        split: train, val, or test (a separate download, release_test). The test labels are not public: its targets
            are 255 everywhere.

    Items: (image, target): RGB image and mode L target with train ids 0..149 (id - 1 of the file), 255 where it has 0.
    Their names are file stems, e.g. ADE_train_00000001. The palette is VOC's colour map from id 1 on, not the colours
    of the challenge.
    """

    num_classes = 150
    class_names = tuple(" ".join(name.split()) for name in CLASS_NAMES.split(","))
    palette = bit_palette(151)[1:]
    table, rule = TABLE, "ADE20K's ids are 1..150 and 0 for everything else"

    def __init__(self, root: str, split: str):
        part = SPLITS[require_split(split, SPLITS)]
        released = Path(root, "release_test", "testing")
        folder = released if split == "test" and released.is_dir() else f"{root}/images/{part}"
        images = require_images(folder, LAYOUT)
        self.names = list(images)
        if split == "test":
            self.files = [(image, None) for image in images.values()]
        else:
            self.files = pair_labels(images, f"{root}/annotations/{part}", LAYOUT)
