"""A made-up YOLO set with what its users' sets have: two folders, holes, overlaps, accents, images without a file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets.yolo import YOLO

RING = "2 .125 .1 .875 .1 .875 .5 .125 .5 .125 .1 .375 .2 .375 .4 .625 .4 .625 .2 .375 .2"  # with a bridge to its hole
LABELS = {
    "train/images/a ñ.png": f"{RING}\n\n0 .25 .3 .9 .3 1.1 .8 .25 .8\n",
    "train/images/deep/b.png": "",
    "train/images/c.png": None,
    "valid/images/d.png": "0 1.5 1.5 1.9 1.5 1.9 1.9",  # all of it outside
}
# the polygon of the second line has more pixels, and a right edge that leans out of the image
A = ["........", ".wwwwww.", ".ww..ww.", ".wwppww.", ".wwwwwwp", *["..pppppp"] * 3, *["........"] * 2]
EMPTY = ["........"] * 10
DATA = "path: .\ntrain: ../train/images  # as Roboflow writes it\nval: valid/images\nnames: {0: persona, 2: wheel}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data.yaml").write_text(DATA)
    for name, text in LABELS.items():
        image = tmp_path / name
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 10)).save(image)
        if text is not None:
            label.write_text(text)
    return tmp_path


def drawn(dataset: YOLO, letters: str = ".pw") -> list[list[str]]:
    assert all(dataset[index][1].mode == "L" for index in range(len(dataset)))
    targets = [np.asarray(dataset[index][1]) for index in range(len(dataset))]
    return [["".join("?" if value == 255 else letters[value] for value in row) for row in one] for one in targets]


def test_lines_are_drawn(root: Path) -> None:
    dataset = YOLO(str(root), "train")
    assert dataset.class_names == ("background", "persona", "wheel") and len(dataset.palette) == dataset.num_classes
    assert dataset.names == ["a ñ", "c", "deep_b"] and drawn(dataset) == [A, EMPTY, EMPTY]
    assert [label is None for _, label in dataset.files] == [False, True, False]
    assert dataset.stamp(0) != dataset.stamp(1) and dataset.labels_left_out == ()
    assert drawn(YOLO(str(root), "val")) == [EMPTY]
    upper = drawn(YOLO(str(root), "train", overlap="order"))[0]
    assert upper == [*A[:3], ".wppppp.", ".wpppppp", *A[5:]]


def test_labels_are_found_from_the_working_directory_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "train")
    (root / "train/data.yaml").write_text("train: images\nval: images/deep\nnames: {0: persona, 2: wheel}\n")
    assert drawn(YOLO(".", "train"))[0] == A


def test_classes_lists_and_one_folder_without_splits(root: Path) -> None:
    chosen = {"thing": ("persona", "wheel"), "background": "ignore"}
    assert drawn(YOLO(str(root), "train", classes=chosen), "t")[0] == [
        row.translate(str.maketrans("pw.", "tt?")) for row in A
    ]
    parts = [YOLO(str(root), split, val=0.5) for split in ("train", "val")]
    assert sorted(parts[0].names + parts[1].names) == ["a ñ", "c", "deep_b"] and all(parts)
    (root / "train.txt").write_text("./train/images/deep/b.png\ntrain/images/a ñ.png\n")
    (root / "data.yaml").write_text("train: [train.txt, valid/images]\nnames: [persona, x, wheel]\n")
    dataset = YOLO(str(root), "train")
    assert dataset.names == ["train_images_deep_b", "train_images_a ñ", "valid_images_d"]
    assert drawn(dataset, ".pxw") == [EMPTY, A, EMPTY]
    with pytest.raises(ValueError, match=r"data\.yaml: val: expected a folder or a list file"):
        YOLO(str(root), "val")
    (root / "train.txt").write_text("train/images/nowhere.png\n")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: listed in .*train\.txt but no file"):
        YOLO(str(root), "train")


def test_text_files_of_no_image_are_left_out(root: Path) -> None:
    for name in ("gone", "classes"):  # the second one is written by annotation tools
        (root / f"train/labels/{name}.txt").write_text("0 0 0 1 0 1 1\n")
    assert YOLO(str(root), "train").labels_left_out == (str(root / "train/labels/gone.txt"),)


def test_a_label_whose_accent_is_written_otherwise_is_found(root: Path) -> None:
    label = root / "train/labels/a ñ.txt"
    label.rename(label.with_name("a n\u0303.txt"))
    assert drawn(YOLO(str(root), "train"))[0] == A


@pytest.mark.parametrize("line, told", [
    ("1 0 0 1 0 1 1", r"there is no class 1; data.yaml names '0: persona', '2: wheel'"),
    ("0 .5 .5 .2 .2", "a box .* says nothing of pixels; labels for segmentation are polygons"),
    ("0 0 0 1 0 1", "a polygon has as many y as x"),
    ("0 0 0", "a polygon has at least three points"),
    ("0 0 0 640 0 640 480", "x and y are shares of the image's width and height, from 0 to 1"),
    ("person 0 0 1 0 1 1", "a line is the number of a class and the numbers"),
    ("0 0 0 1 nan 1 1", "a polygon's points lie at most"),
])  # fmt: skip
def test_lines_that_are_wrong_are_named(root: Path, line: str, told: str) -> None:
    (root / "train/labels/a ñ.txt").write_text(f"{RING}\n{line}\n")
    with pytest.raises(ValueError, match=rf"labels/a ñ\.txt:2: {told}.*; got '"):
        YOLO(str(root), "train")[0]


@pytest.mark.parametrize("text, error, told", [
    ("names: [a", ValueError, "is no YAML"), ("- a", ValueError, "expected entries such as train, val and names"),
    ("train: train/images", ValueError, "names: expected a list of names, or number: name"),
    ("names: {-1: a, 0: b}", ValueError, "names: expected a list of names, or number: name"),
    ("a: &a [x, x]\nnames: [*a, b]", ValueError, "names: a class has one name, and one of these has none, or a list"),
    ("nc: 3\nnames: [a, b]", ValueError, "nc says '3' classes, and names has 2"),
    ("train: nowhere\nnames: [a]", FileNotFoundError, "train: there is no nowhere; tried .*nowhere"),
])  # fmt: skip
def test_a_file_of_names_that_is_wrong(root: Path, text: str, error: type, told: str) -> None:
    (root / "data.yaml").write_text(text)
    with pytest.raises(error, match=rf"data\.yaml: {told}"):
        YOLO(str(root), "train")


def test_files_that_are_not_there(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"other\.yaml: no such file \(`data` says its name\)"):
        YOLO(str(root), "train", data="other.yaml")
    with pytest.raises(ValueError, match="no split called 'valid'; there are: train, val, test"):
        YOLO(str(root), "valid")
    (root / "valid/labels/d.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"valid/labels/d\.txt: does not exist, and no other image of val has"):
        YOLO(str(root), "val")


def test_two_images_of_one_name_in_a_list(root: Path) -> None:
    Image.new("RGB", (8, 10)).save(root / "train/images/c.jpg")
    (root / "train.txt").write_text("train/images/c.png\ntrain/images/c.jpg\n")
    (root / "data.yaml").write_text(DATA.replace("../train/images", "train.txt"))
    with pytest.raises(ValueError, match="c.jpg and .*c.png: two images of one name"):
        YOLO(str(root), "train")
