"""COCO-Stuff 164K: things and stuff in everyday scenes, 118287 training and 5000 validation images.

Source: Caesar, Uijlings, Ferrari, "COCO-Stuff: Thing and Stuff Classes in Context", CVPR 2018.
"""

from typing import Literal

from ._files import LabelledFiles, lookup_table, pair_labels, require_images, require_split
from ._palettes import bit_palette

LAYOUT = "<root>/images/{train2017,val2017}/<id>.jpg and <root>/annotations/{train2017,val2017}/<id>.png"
SPLITS = {"train": "train2017", "val": "val2017"}

# in the order of the label files' ids, 0 to 90 things, 91 to 181 stuff
CLASS_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack,
    umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
    baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl,
    banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
    mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
    toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush,
    banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other,
    ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble,
    floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel,
    ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper,
    pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug,
    salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
    tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone,
    wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
NAMES = tuple(" ".join(name.split()) for name in CLASS_NAMES.split(","))
# things that were given an id and never annotated
NEVER = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
OCCURRING = tuple(index for index in range(182) if index not in NEVER)

TABLES = {
    182: lookup_table({index: index for index in range(182)}),
    171: lookup_table({raw: index for index, raw in enumerate(OCCURRING)}),
}
RULES = {
    182: "COCO-Stuff's ids are 0..181 and 255 for unlabelled pixels",
    171: "COCO-Stuff's ids are 0..181 without the eleven that never occur, and 255 for unlabelled pixels; "
    "files that were renumbered to 171 classes already are read by the folder dataset",
}


class CocoStuff(LabelledFiles):
    """Images and targets of COCO-Stuff 164K, from its pixel maps (`stuffthingmaps_trainval2017`).

    Args:
        root: the folder that holds `images` and `annotations`.
        split: train or val, COCO's train2017 or val2017.
        classes: 182: the ids of the files, as CIRKD trains on them: eleven of them never occur, which its scores
            count as classes of IoU 0. 171: those that do occur, numbered without gaps, as mmsegmentation has them.

    Items: (image, target): RGB image and mode L target with train ids 0..181 or 0..170, 255 where the file has 255.
    Their names are file stems, e.g. 000000000139. The palette is VOC's colour map from id 1 on; a class has the same
    colour in both numberings.
    """

    num_classes = 182
    class_names = NAMES
    palette = bit_palette(183)[1:]

    def __init__(self, root: str, split: str, *, classes: Literal[182, 171] = 182):
        if classes == 171:
            self.num_classes = 171
            self.class_names = tuple(NAMES[raw] for raw in OCCURRING)
            self.palette = tuple(type(self).palette[raw] for raw in OCCURRING)
        self.table, self.rule = TABLES[classes], RULES[classes]
        part = SPLITS[require_split(split, SPLITS)]
        images = require_images(f"{root}/images/{part}", LAYOUT)
        self.names = list(images)
        self.files = pair_labels(images, f"{root}/annotations/{part}", LAYOUT)
