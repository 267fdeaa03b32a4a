from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets._files import files_below
from segkd.datasets._parts_of_a_set import LabelsFrom
from segkd.datasets.folder import Folder

NAMES = ("ground", "water", "roof")
COLORS = ((10, 20, 30), (0, 0, 255), (255, 0, 0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, town in enumerate(("north", "south")):
        for folder, array in {
            "images": np.full((2, 3, 3), 50, dtype=np.uint8),
            "labels": np.array([[0, 1, 2], [255, number, 0]], dtype=np.uint8),
            "painted": np.array([[COLORS[0], COLORS[1], COLORS[2]], [(0, 0, 0), COLORS[number], COLORS[0]]], np.uint8),
        }.items():
            place = tmp_path / "train" / folder / town
            place.mkdir(parents=True)
            Image.fromarray(array).save(place / f"tile_{'' if folder == 'images' else 'm'}{number}.png")
    return tmp_path


def rename(root: Path, folder: str, suffix: str) -> None:
    for path in (root / "train" / folder).rglob("*.png"):
        path.rename(path.with_name(f"tile_{path.stem[-1]}{suffix}.png"))


def test_pairs_by_path_and_suffix(root: Path) -> None:
    rename(root, "labels", "_mask")
    dataset = Folder(str(root), "train", class_names=NAMES, label_suffix="_mask")
    assert [dataset.name(index) for index in range(2)] == ["north_tile_0", "south_tile_1"]
    assert np.asarray(dataset[1][1]).tolist() == [[0, 1, 2], [255, 1, 0]]
    assert dataset.num_classes == 3 and dataset.class_names == NAMES and len(dataset.palette) == 3


def test_colours(root: Path) -> None:
    rename(root, "painted", "")
    options = {"class_names": NAMES, "labels": "{split}/painted", "palette": COLORS, "colors": True}
    dataset = Folder(str(root), "train", void_colors=((0, 0, 0),), **options)
    assert np.asarray(dataset[1][1]).tolist() == [[0, 1, 2], [255, 1, 0]]
    assert dataset[1][1].mode == "L" and dataset.palette == COLORS
    with pytest.raises(ValueError, match=r"tile_0\.png: colour \(0, 0, 0\) is neither in the palette"):
        Folder(str(root), "train", **options)[0]


def test_list_file(root: Path) -> None:
    image, label = "train/images/south/tile_1.png", "train/labels/south/tile_m1.png"

    def read(line: str) -> Folder:
        (root / "train.txt").write_text(f"\n{line}\n")
        return Folder(str(root), "train", class_names=NAMES, list_file="{split}.txt")

    dataset = read(f"{image} {label}")
    assert len(dataset) == 1 and dataset.name(0) == "train_images_south_tile_1"
    assert np.asarray(dataset[0][1])[1].tolist() == [255, 1, 0]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: listed in .*train\.txt"):
        read(f"{image} nowhere.png")
    (root / image).rename(root / "a tile.png")
    assert read(f"a tile.png\t{label}").name(0) == "a tile"
    pair = f"a tile.png\t{label}"
    for line, error in (("a tile.png", FileNotFoundError), (f"{pair}\n{image}", ValueError), (f"{pair}\n{pair}\tb", ValueError)):
        with pytest.raises(error, match="entry [12].*; where a path holds blanks, one tab stands between the two"):
            read(line)


@pytest.mark.parametrize("line", ["south/tile_1", "south/tile_1.png", "train/images/south/tile_1.png", "tile_1"])
def test_a_list_of_images_alone(root: Path, line: str) -> None:
    rename(root, "labels", "")
    (root / "few.txt").write_text(f"{line}\n")
    dataset = Folder(str(root), "train", class_names=NAMES, list_file="few.txt")
    assert len(dataset) == 1 and dataset.name(0) == "south_tile_1"
    assert dataset.files[0][1].endswith("labels/south/tile_1.png")
    (root / "few.txt").write_text(f"{line}\nnowhere\n")
    with pytest.raises(ValueError, match=r"few\.txt, entry 2: 'nowhere': none of the 2 images is called so; a line holds"):
        Folder(str(root), "train", class_names=NAMES, list_file="few.txt")
    (root / "train/images/tile_1.png").write_bytes((root / "train/images/south/tile_1.png").read_bytes())
    (root / "few.txt").write_text("tile_1.png\n")
    with pytest.raises(ValueError, match="entry 1: 'tile_1.png': 2 images are called so"):
        Folder(str(root), "train", class_names=NAMES, list_file="few.txt")


def test_labels_made_for_one_image_are_never_anothers(root: Path) -> None:
    """They lie in files of the images' names."""
    rename(root, "labels", "")
    Image.new("RGB", (3, 2), "red").save(root / "train/images/north_tile_0.png")
    Image.new("L", (3, 2), 1).save(root / "train/labels/north_tile_0.png")
    dataset = Folder(str(root), "train", class_names=NAMES)
    assert len(dataset) == len({dataset.name(index) for index in range(3)}) == 3
    for index in range(3):
        made = Image.new("L", dataset[index][0].size, index)
        made.save(root / f"{dataset.name(index)}.png")
    labels = LabelsFrom(dataset, root, 3, "data.extra.labels")
    assert [labels[index][1].getpixel((0, 0)) for index in range(3)] == [0, 1, 2]


def test_a_list_of_images_that_differ_in_their_endings(root: Path) -> None:
    image, label = "train/images/south/tile_1.png", "train/labels/south/tile_m1.png"
    Image.new("RGB", (3, 2)).save(root / "train/images/south/tile_1.bmp")
    (root / "train.txt").write_text(f"{image} {label}\ntrain/images/south/tile_1.bmp {label}\n")
    dataset = Folder(str(root), "train", class_names=NAMES, list_file="{split}.txt")
    assert dataset.name(0) != dataset.name(1)


def test_lookup_and_ignored_ids(root: Path) -> None:
    rename(root, "labels", "")
    dataset = Folder(str(root), "train", class_names=("dry", "wet"), lookup={0: 0, 1: 1}, ignore=(2, 255))
    assert np.asarray(dataset[1][1]).tolist() == [[0, 1, 255], [255, 1, 0]]
    strict = Folder(str(root), "train", class_names=("dry", "wet"))
    with pytest.raises(ValueError, match=r"label ids 2 are not allowed; allowed are 0\.\.1 and, ignored, 255"):
        strict[0]


@pytest.mark.parametrize("options, word", [
    ({"palette": COLORS[:2]}, "palette"), ({"colors": True}, "colors"), ({"void_colors": COLORS}, "void_colors"),
    ({"lookup": {0: 3}}, "lookup"), ({"palette": COLORS, "colors": True, "void_colors": COLORS}, "occurs twice"),
    ({"image_suffix": "_left"}, "no images whose name ends in '_left'"),
])  # fmt: skip
def test_wrong_arguments_are_named(root: Path, options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Folder(str(root), "train", class_names=NAMES, **options)


def test_two_classes_of_one_name_are_not_made_one(root: Path) -> None:
    with pytest.raises(ValueError, match="class_names: 'dry' stands there twice"):
        Folder(str(root), "train", class_names=("dry", "wet", "dry"))


def test_missing_folder_and_missing_label(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="val/images: no such folder"):
        Folder(str(root), "val", class_names=NAMES)
    with pytest.raises(FileNotFoundError, match=r"tile_0\.png: its label .*/north/tile_0\.png does not exist"):
        Folder(str(root), "train", class_names=NAMES)


def test_a_lookup_of_the_users_own_wins_over_the_default_of_ignore(root: Path) -> None:
    rename(root, "labels", "")
    for path in (root / "train/labels").rglob("*.png"):
        Image.fromarray(np.array([[0, 255, 0], [255, 255, 0]], np.uint8)).save(path)
    options = {"class_names": ("background", "building")}
    masks = Folder(str(root), "train", lookup={0: 0, 255: 1}, **options)
    assert np.asarray(masks[0][1]).tolist() == [[0, 1, 0], [1, 1, 0]]
    assert masks.rule == "allowed are those of lookup and, ignored, none"
    # without one, 255 is ignored, and so it is where the lookup says nothing of it or the same
    for lookup in (None, {0: 0}, {0: 0, 255: 255}):
        assert np.asarray(Folder(str(root), "train", lookup=lookup, **options)[0][1])[0].tolist() == [0, 255, 0]
    assert Folder(str(root), "train", lookup={0: 0, 255: 255}, ignore=(255,), **options).table[255] == 255
    with pytest.raises(ValueError, match="lookup: id 255 is class 1 there, and `ignore` ignores it; change one"):
        Folder(str(root), "train", lookup={0: 0, 255: 1}, ignore=(255,), **options)


def test_a_class_may_be_ignored_by_its_id(root: Path) -> None:
    rename(root, "labels", "")
    dataset = Folder(str(root), "train", class_names=NAMES, ignore=(0, *range(7, 256)))
    assert np.asarray(dataset[1][1]).tolist() == [[255, 1, 2], [255, 1, 255]]
    assert dataset.rule == "allowed are 0..2 and, ignored, 0, 7..255"
    with pytest.raises(ValueError, match="ignore: labels made of colours have no ids to ignore; void_colors"):
        Folder(str(root), "train", class_names=NAMES, palette=COLORS, colors=True, ignore=(0,))


def test_lines_of_a_list_are_not_repeated_at_length(root: Path) -> None:
    for line, error in (
        ("x" * 10_000, ValueError),
        ("x" * 10_000 + " y", FileNotFoundError),
        ("a\0b c", FileNotFoundError),
    ):
        (root / "train.txt").write_text(line)
        with pytest.raises(error) as caught:
            Folder(str(root), "train", class_names=NAMES, list_file="{split}.txt")
        assert len(str(caught.value)) < 800


def write(path: Path, pixels: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(path)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twelve images without splits, whose names have blanks and accents, each beside its mask."""
    for number in range(12):
        write(tmp_path / f"fotos/jardín {number}.png", np.zeros((1, 3, 3)))
        write(tmp_path / f"fotos/jardín {number}_mask.png", [[0, 1, 2]])
    return tmp_path


def test_templates_of_paths(tmp_path: Path) -> None:
    for split, name in (("train", "north/a"), ("train", "south/a"), ("val", "c")):
        write(tmp_path / f"images/{split}/{name}.png", np.zeros((1, 3, 3)))
        write(tmp_path / f"masks/x/{name}/{split}_mask.png", [[0, 1, 2]])
    options = {"images": "images/{split}/{name}.png", "labels": "masks/*/{name}/{split}_mask.png"}
    dataset = Folder(str(tmp_path), "train", class_names=NAMES, **options)
    assert dataset.names == ["north_a", "south_a"] and np.asarray(dataset[1][1]).tolist() == [[0, 1, 2]]
    assert Folder(str(tmp_path), "val", class_names=NAMES, **options).names == ["c"]
    (tmp_path / "masks/x/south/a/train_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"south/a\.png: its label .*masks/\*/south/a/train_mask.png does not"):
        Folder(str(tmp_path), "train", class_names=NAMES, **options)
    for wrong, told in (
        ({"images": "images/{split}/{stem}.png"}, "images: .*: {stem} is unknown; a template of paths is like"),
        ({"labels": "masks/{split}"}, "labels: masks/{split}: {name} stands in the other one and not here"),
    ):
        with pytest.raises(ValueError, match=told):
            Folder(str(tmp_path), "train", class_names=NAMES, **options | wrong)
    write(tmp_path / "masks/y/north/a/train_mask.png", [[0, 1, 2]])
    with pytest.raises(ValueError, match="two labels of one name"):
        Folder(str(tmp_path), "train", class_names=NAMES, **options)


def test_one_folder_is_divided_by_name_and_stays_divided(photographs: Path) -> None:
    options = {"class_names": NAMES, "images": "fotos/{name}.png", "labels": "fotos/{name}_mask.png", "val": 0.3}
    before = {split: Folder(str(photographs), split, **options).names for split in ("train", "val")}
    assert sorted(before["train"] + before["val"]) == sorted(f"jardín {number}" for number in range(12))
    assert before["val"] == ["jardín 0", "jardín 4", "jardín 5"]  # for ever
    for number in range(12, 40):
        write(photographs / f"fotos/jardín {number}.png", np.zeros((1, 3, 3)))
        write(photographs / f"fotos/jardín {number}_mask.png", [[0, 1, 2]])
    after = {split: Folder(str(photographs), split, **options).names for split in ("train", "val")}
    assert all(set(before[split]) < set(after[split]) for split in after) and 5 < len(after["val"]) < 20
    with pytest.raises(ValueError, match="no split called 'test'; there are: train, val"):
        Folder(str(photographs), "test", **options)
    with pytest.raises(ValueError, match="val: 1e-06 leaves none of the 40 images for val.*take another share"):
        Folder(str(photographs), "val", **options | {"val": 1e-6})
    with pytest.raises(ValueError, match="val: 0.5 divides images that are in one place, and 'fotos_{split}' is another"):
        (photographs / "fotos").rename(photographs / "fotos_train")
        Folder(str(photographs), "train", class_names=NAMES, images="fotos_{split}", labels="fotos_train", val=0.5)
    with pytest.raises(FileNotFoundError, match="train/images: no such folder.*are divided by val: 0.1"):
        Folder(str(photographs), "train", class_names=NAMES)


def test_names_that_were_packed_on_a_mac(tmp_path: Path) -> None:
    write(tmp_path / "train/images/cafe\u0301.png", np.zeros((1, 3, 3)))  # the accent is a character of its own
    write(tmp_path / "train/labels/caf\u00e9.png", [[0, 1, 2]])
    dataset = Folder(str(tmp_path), "train", class_names=NAMES)
    assert dataset.names == ["caf\u00e9"] and np.asarray(dataset[0][1]).tolist() == [[0, 1, 2]]
    image, label = "train/images/caf\u00e9.png", "train/labels/cafe\u0301.png"
    for line in ("caf\u00e9", "cafe\u0301", "caf\u00e9.png", image, f"{image} {label}", f"{image}\t{label}"):
        (tmp_path / "list.txt").write_text(line)
        listed = Folder(str(tmp_path), "train", class_names=NAMES, list_file="list.txt")
        assert listed.files == dataset.files, line


def test_classes_are_merged_and_ignored_by_name(root: Path) -> None:
    rename(root, "labels", "")
    dataset = Folder(
        str(root), "train", class_names=NAMES, classes={"built": ["roof"], "ground": "ignore", "*": "soft"}
    )
    assert dataset.class_names == ("built", "soft") and dataset.num_classes == 2
    assert np.asarray(dataset[1][1]).tolist() == [[255, 1, 0], [255, 1, 255]]
    rename(root, "painted", "p")
    painted = {"labels": "{split}/painted", "label_suffix": "p", "void_colors": ((0, 0, 0),)}
    merged = {"open": ["ground", "water"], "*": "keep"}
    dataset = Folder(str(root), "train", colors=dict(zip(NAMES, COLORS)), classes=merged, **painted)
    assert dataset.class_names == ("open", "roof") and dataset.palette == (COLORS[0], COLORS[2])
    assert np.asarray(dataset[1][1]).tolist() == [[0, 0, 1], [255, 0, 0]]


def test_a_table_of_colours_takes_the_place_of_names_and_palette(root: Path) -> None:
    table = dict(zip(NAMES, COLORS))
    with pytest.raises(ValueError, match="colors: a table of names and colours takes the place of class_names"):
        Folder(str(root), "train", class_names=NAMES, colors=table)
    with pytest.raises(ValueError, match="class_names: is missing; name the class of each id, or give a table"):
        Folder(str(root), "train")


def test_masks_that_no_id_fits_are_explained(root: Path) -> None:
    rename(root, "labels", "")
    for pixels, told in (
        (
            [[0, 255, 0], [0, 0, 0]],
            r"label ids 255 are not allowed; .*; masks of 0 and 255 are read by dataset folder with",
        ),
        (np.zeros((2, 3, 3)), r"this file has mode RGB; .* such as colors: \{background: \[0, 0, 0\], building"),
    ):
        write(root / "train/labels/south/tile_1.png", pixels)
        with pytest.raises(ValueError, match=told):
            Folder(str(root), "train", class_names=("background", "building"), ignore=(7,))[1]
    for folder in ("images", "labels"):
        place = root / "train" / folder / "south"
        Image.fromarray(np.full((2, 3), 130, np.uint8)).save(place / "tile_2.jpg")
    with pytest.raises(ValueError, match="label ids .*; JPEG alters ids, so save labels as PNG"):
        Folder(str(root), "train", class_names=NAMES)[2]


def test_images_without_labels_are_an_error_or_left_out(photographs: Path) -> None:
    for name in ("jardín 3", "jardín 7"):
        (photographs / f"fotos/{name}_mask.png").unlink()
    write(photographs / "fotos/gone_mask.png", [[0, 1, 2]])
    templates = {"class_names": NAMES, "images": "fotos/{name}.*", "labels": "fotos/{name}_mask.*"}
    told = (
        r"jardín 3\.png: its label .*jardín 3_mask\.\* does not exist \(2 of 12 images have none; without_label: skip"
    )
    with pytest.raises(FileNotFoundError, match=told):
        Folder(str(photographs), "train", **templates)
    dataset = Folder(str(photographs), "train", without_label="skip", **templates)
    assert len(dataset) == 10 and "jardín 3" not in dataset.names
    assert [Path(path).name for path in dataset.images_left_out] == ["jardín 3.png", "jardín 7.png"]
    assert [Path(path).name for path in dataset.labels_left_out] == ["gone_mask.png"]
    for path in (photographs / "fotos").glob("*_mask.png"):
        path.unlink()
    write(photographs / "fotos/gone_mask.png", [[0, 1, 2]])
    with pytest.raises(FileNotFoundError, match="12 of 12 images have none"):
        Folder(str(photographs), "train", without_label="skip", **templates)


def test_any_ending_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.JPG", "b.jpeg", "c.1.Png"):
        write(tmp_path / "root" / name, np.zeros((1, 3, 3)))
        write(tmp_path / "root" / f"{Path(name).stem}_mask.PNG", [[0, 1, 2]])
    (tmp_path / "root/a.txt").write_text("no image")
    write(tmp_path / "other.png", np.zeros((1, 3, 3)))
    walked = []
    spy = "segkd.datasets.folder.files_below"
    monkeypatch.setattr(spy, lambda place: walked.append(str(place)) or files_below(place))
    for images, labels in (("{name}.*", "{name}_mask.*"), ("{name}.jpg", "{name}_mask.png")):
        dataset = Folder(str(tmp_path / "root"), "train", class_names=NAMES, images=images, labels=labels)
        assert dataset.names == (["a", "b", "c.1"] if images == "{name}.*" else ["a"])
    assert set(walked) == {str(tmp_path / "root")}, "what lies beside the root is not looked at"
