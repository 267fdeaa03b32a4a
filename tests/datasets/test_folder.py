from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    for line, error in ((image, ValueError), ("a tile.png", FileNotFoundError), (f"a tile.png {label}", ValueError)):
        with pytest.raises(error, match="entry 1.*; where a path holds blanks, one tab stands between the two"):
            read(line)


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
