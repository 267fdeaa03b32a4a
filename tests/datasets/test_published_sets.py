"""Images and labels of ADE20K, CamVid, Cityscapes and COCO-Stuff, as their authors lay them out in folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets._files import published_split
from segkd.datasets.ade20k import ADE20K
from segkd.datasets.camvid import CamVid
from segkd.datasets.cityscapes import Cityscapes
from segkd.datasets.coco_stuff import CocoStuff

REAL_CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"
CITYSCAPES = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 31: 16, 32: 17, 33: 18} | {raw: raw - 13 for raw in range(19, 29)}
# counted from 1, as the data set's own list of names numbers them
NEVER_ANNOTATED = {
    12: "street sign", 26: "hat", 29: "shoe", 30: "eye glasses", 45: "plate", 66: "mirror", 68: "window", 69: "desk",
    71: "door", 83: "blender", 91: "hair brush",
}  # fmt: skip
ANNOTATED = [index for index in range(182) if index + 1 not in NEVER_ANNOTATED]
PLACES = {
    ADE20K: ("images/validation/{}.jpg", "annotations/validation/{}.png", "ADE_val_00000001"),
    CamVid: ("val/{}.png", "valannot/{}.png", "0016E5_07959"),
    Cityscapes: ("leftImg8bit/val/lindau/{}_leftImg8bit.png", "gtFine/val/lindau/{}_gtFine_{}.png",
                 "lindau_000001_000019"),
    CocoStuff: ("images/val2017/{}.jpg", "annotations/val2017/{}.png", "000000000139"),
}  # fmt: skip


def write(path: Path, pixels: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(path)


# ids in a file, what they become, and an id that no file may hold with what is said of it
@pytest.mark.parametrize("kind, options, ids, wanted, wrong, told", [
    (ADE20K, {}, [*range(151)], [255, *range(150)], 151, ""),
    (CamVid, {}, [*range(12)], [*range(11), 255], 12, "CamVid's ids are 0..10 and 11 for unlabelled pixels"),
    (Cityscapes, {}, [*range(34), 255], [*(CITYSCAPES.get(raw, 255) for raw in range(34)), 255], 40, "labelTrainIds"),
    (Cityscapes, {"labels": "labelTrainIds"}, [*range(19), 255], [*range(19), 255], 19, ""),
    (CocoStuff, {}, [*range(182), 255], [*range(182), 255], 182, r"0\.\.181 and 255"),
    (CocoStuff, {"classes": 171}, [*ANNOTATED, 255], [*range(171), 255], 11, "the folder dataset"),
])  # fmt: skip
def test_ids_of_label_files(kind, options, ids, wanted, wrong, told, tmp_path: Path) -> None:
    image, label, name = PLACES[kind]
    image, label = tmp_path / image.format(name), tmp_path / label.format(name, options.get("labels", "labelIds"))
    write(image, np.zeros((1, len(ids), 3)))
    for other in ("labelIds", "labelTrainIds", "color") if kind is Cityscapes else ():
        write(label.with_name(f"{name}_gtFine_{other}.png"), np.zeros((1, len(ids), 3)))
    write(label, [ids])
    dataset = kind(str(tmp_path), "val", **options)
    assert len(dataset) == 1 and dataset.name(0) == name
    pixels, target = dataset[0]
    assert pixels.mode == "RGB" and target.mode == "L" and np.asarray(target).tolist() == [wanted]
    write(label, [[wrong] * len(ids)])
    with pytest.raises(ValueError, match=rf"{label.name}: label ids {wrong} are not allowed; .*{told}"):
        dataset[0]
    label.unlink()
    with pytest.raises(FileNotFoundError, match=f"{image.name}: its label .*{label.name} does not exist"):
        kind(str(tmp_path), "val", **options)
    image.unlink()
    with pytest.raises(ValueError, match="val.*: no images"):
        kind(str(tmp_path), "val", **options)
    shutil.rmtree(image.parent if kind is not Cityscapes else image.parents[1])
    with pytest.raises(FileNotFoundError, match="val.*: no such folder. Expected layout: <root>/"):
        kind(str(tmp_path), "val", **options)


@pytest.mark.parametrize("kind, folders, names", [
    (CamVid, ("{split}/{name}.jpg", "{split}annot/{name}.png"), {"train": ["b", "a"], "val": ["c"]}),
    (Cityscapes,
     ("leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", "gtFine/{split}/{city}/{name}_gtFine_labelIds.png"),
     {"train": ["aachen_000001_000019", "aachen_000000_000019"], "val": ["lindau_000001_000019"]}),
])  # fmt: skip
def test_trainval_is_both_splits_each_sorted(kind, folders, names, tmp_path: Path) -> None:
    for split in names:
        for name in names[split]:
            image, label = (tmp_path / f.format(split=split, name=name, city=name.split("_")[0]) for f in folders)
            write(image, np.zeros((1, 1, 3)))
            write(label, [[0]])
    for split, wanted in (("train", sorted(names["train"])), ("trainval", sorted(names["train"]) + names["val"])):
        dataset = kind(str(tmp_path), split)
        assert len(dataset) == len(wanted) and [dataset.name(index) for index in range(len(wanted))] == wanted
    if kind is Cityscapes:
        assert dataset.name(0) in published_split("cityscapes", "1_2")


@pytest.mark.parametrize("kind, image, label, places", [
    (CamVid, "{}/1.png", "{}annot/1.png", ("train", "val")),
    (Cityscapes, "leftImg8bit/{}/1_leftImg8bit.png", "gtFine/{}/1_gtFine_labelIds.png", ("train/x", "train/y")),
])  # fmt: skip
def test_images_of_one_name_in_two_folders_have_names_of_their_own(kind, image, label, places, tmp_path: Path) -> None:
    """As sets from elsewhere have them that were given this layout."""
    for place in places:
        write(tmp_path / image.format(place), np.zeros((1, 1, 3)))
        write(tmp_path / label.format(place), [[0]])
    dataset = kind(str(tmp_path), "trainval" if kind is CamVid else "train")
    assert len({dataset.name(index) for index in range(2)}) == 2


@pytest.mark.skipif(not REAL_CAMVID.is_dir(), reason="the real CamVid is not beside the checkout")
def test_real_camvid() -> None:
    lengths = {split: len(CamVid(str(REAL_CAMVID), split)) for split in ("train", "val", "test", "trainval")}
    assert lengths == {"train": 367, "val": 101, "test": 233, "trainval": 468}
    image, target = CamVid(str(REAL_CAMVID), "val")[0]
    assert image.size == target.size == (480, 360)
    assert set(np.unique(target)) <= {*range(11), 255}


def test_names_and_colours_of_coco_stuff(tmp_path: Path) -> None:
    assert {index: CocoStuff.class_names[index - 1] for index in NEVER_ANNOTATED} == NEVER_ANNOTATED
    write(tmp_path / "images/val2017/000000000139.jpg", np.zeros((1, 1, 3)))
    write(tmp_path / "annotations/val2017/000000000139.png", [[0]])
    dataset = CocoStuff(str(tmp_path), "val", classes=171)
    assert dataset.num_classes == len(dataset.class_names) == len(set(dataset.palette)) == 171
    assert set(CocoStuff.class_names) - set(dataset.class_names) == set(NEVER_ANNOTATED.values())
    # a class keeps its name and colour
    for name, colour in zip(dataset.class_names, dataset.palette, strict=True):
        assert CocoStuff.palette[CocoStuff.class_names.index(name)] == colour


@pytest.mark.parametrize("kind, names", [
    (ADE20K, {0: "wall", 44: "chest of drawers", 149: "flag"}),
    (CocoStuff, {0: "person", 89: "toothbrush", 91: "banner", 168: "tree", 181: "wood"}),
])  # fmt: skip
def test_places_of_class_names(kind, names) -> None:
    assert {index: kind.class_names[index] for index in names} == names
