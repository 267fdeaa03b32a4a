"""What the test servers take: which ids stand in the files, how the files are called, how they are packed.

Cityscapes (instructions in cityscapesScripts, evaluation/evalPixelLevelSemanticLabeling.py, and on the submission
page): one PNG an image, of the image's size, with the label ids of the release (not the train ids), in a zip. A file
is found by its name, <city>_<sequence>_<frame>*.png, in whatever folder.

VOC 2012 (development kit, section on the segmentation task): one indexed PNG an image with the colour map of the
ground truth, ids 0..20 and no void, as results/VOC2012/Segmentation/<competition>_<split>_cls/<id>.png in a tar file.
comp5 is for networks trained on VOC's own data alone, comp6 for all others, so also for those that began with weights
from ImageNet.

ADE20K (development kit of the scene parsing benchmark): one PNG an image, called as the image, ids 1..150 as in the
annotations, where 0 is everything else and does not count, in a zip.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from segkd.datasets._palettes import bit_palette
from segkd.datasets.cityscapes import LABEL_IDS
from segkd.runner.predicting.label_files import Palette


@dataclass(frozen=True)
class Server:
    """The format of one server.

    Attributes:
        ids: the id in the files of each class, in the order of the data set's classes.
        file: path of an image's file in the archive, with {name}, {split} and {competition} in it.
        archive: name of the archive.
        palette: the colours of indexed files, None for grey ones.
        images: how many images its splits have.
        size: height and width of all of them, None where they differ.
    """

    ids: tuple[int, ...]
    file: str
    archive: str
    palette: Palette | None
    images: dict[str, int]
    size: tuple[int, int] | None = None

    def path(self, name: str, split: str, competition: str) -> str:
        """The path in the archive of the file for the image called `name`, whose own folders do not count."""
        return self.file.format(name=PurePosixPath(name).name, split=split, competition=competition)


SERVERS = {
    "cityscapes": Server(
        LABEL_IDS, "{name}_pred_labelIds.png", "cityscapes.zip", None, {"val": 500, "test": 1525}, size=(1024, 2048)
    ),
    "voc": Server(
        tuple(range(21)),
        "results/VOC2012/Segmentation/{competition}_{split}_cls/{name}.png",
        "voc.tar.gz",
        bit_palette(256),
        {"val": 1449, "test": 1456},
    ),
    "ade20k": Server(tuple(range(1, 151)), "{name}.png", "ade20k.zip", None, {"val": 2000}),
}
