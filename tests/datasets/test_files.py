import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets._files import (
    LabelledFiles,
    find_images,
    image_names,
    lookup_table,
    name_of_file,
    paths_below,
    published_split,
    read_image,
    read_label,
    read_list,
    require_images,
)

TABLE = lookup_table({index: index for index in range(5)}, ignore=(11, 255))
RULE = "ids are 0..4, 11 and 255"


def write_label(path: Path, ids: list, mode: str = "L") -> str:
    label = Image.fromarray(np.array(ids, dtype={"1": bool, "I;16": np.uint16}.get(mode, np.uint8)))
    if mode == "P":
        label = Image.frombytes("P", label.size, label.tobytes())
        label.putpalette([level for index in range(256) for level in (255 - index, 7, 9)])
    label.save(path)
    return str(path)


@pytest.mark.parametrize("mode, ids, wanted", [
    ("L", [[0, 4, 11], [255, 2, 1]], [[0, 4, 255], [255, 2, 1]]), ("L", [[0, 4, 255]], [[0, 4, 255]]),
    ("P", [[0, 4, 11], [255, 2, 1]], [[0, 4, 255], [255, 2, 1]]), ("P", [[0, 4, 255]], [[0, 4, 255]]),
    ("I;16", [[0, 3, 255]], [[0, 3, 255]]), ("1", [[0, 1]], [[0, 1]]),
])  # fmt: skip
def test_labels_are_read_as_indices(tmp_path: Path, mode: str, ids, wanted) -> None:
    target = read_label(write_label(tmp_path / "a.png", ids, mode), TABLE, RULE)
    assert target.mode == "L" and np.asarray(target).tolist() == wanted


@pytest.mark.parametrize("mode, ids, told", [
    ("L", [[0, 5, 77]], r"label ids 5, 77 are not allowed; ids are 0\.\.4"),
    ("I;16", [[0, 3, 1000]], "label ids reach from 0 to 1000"),
    ("RGB", [[[0, 0, 0]]], "a label holds one id a pixel .* mode RGB"),
])  # fmt: skip
def test_wrong_labels_are_named_with_file_and_rule(tmp_path: Path, mode: str, ids, told: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.png: {told}"):
        read_label(write_label(tmp_path / "a.png", ids, mode), TABLE, RULE)


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9])
def test_broken_files_are_named(tmp_path: Path, ending: str, keep: float) -> None:
    path = tmp_path / f"broken.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=rf"broken\.{ending}: cannot be decoded \(truncated\?\)"):
        read_image(str(path))


def test_text_in_place_of_an_image_and_a_vanished_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"a\.png: cannot be decoded"):
        read_image(str(tmp_path / "a.png"))
    with pytest.raises(FileNotFoundError, match=r"b\.png: .*gone now"):
        read_image(str(tmp_path / "b.png"))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (5, 4)).save(path)
    image = read_image(str(path))
    assert image.mode == "RGB" and image.size == (5, 4)


def test_size_mismatch_names_both_files(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "image.png")
    dataset = LabelledFiles()
    dataset.table, dataset.rule = TABLE, RULE
    dataset.files = [(str(tmp_path / "image.png"), write_label(tmp_path / "label.png", [[0, 1], [1, 0]]))]
    with pytest.raises(ValueError, match=r"image\.png is 4x5 but its label .*label\.png is 2x2"):
        dataset[0]


def test_listing_sorts_descends_and_strips_suffixes(tmp_path: Path) -> None:
    for name in ("b/2_img.png", "b/10_img.jpg", "a/3_img.PNG", "a/3_mask.png", "a/notes.txt", "a/._x_img.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_images(tmp_path, "_img")) == ["a/3", "b/10", "b/2"]
    (tmp_path / "b/2_img.jpeg").touch()
    with pytest.raises(ValueError, match="two images of one name"):
        find_images(tmp_path, "_img")


def test_every_image_has_a_name_of_its_own() -> None:
    first, second, *others, again = image_names(["a/b_c", "a_b/c", "a_b/d", "e", "a/b_c"])
    assert {first[:6], second[:6]} == {"a_b_c-"} and first != second and again == first, "one file, listed twice"
    assert others == ["a_b_d", "e"]
    assert len(set(image_names(["a/b.png", "a/b.jpg", "a/c.jpg"], name_of_file)) - {"a_b", "a_c"}) == 2


def test_folder_without_images_shows_the_layout(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert list(require_images(tmp_path, "<root>/<name>.png")) == ["a"]
    with pytest.raises(
        ValueError, match="no images whose name ends in '_left'. Expected layout: <root>/<name>_left.png"
    ):
        require_images(tmp_path, "<root>/<name>_left.png", "_left")


def test_lists(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    with pytest.raises(FileNotFoundError, match=r"train\.txt: no such list"):
        read_list(path, "one id a line")
    path.write_text("\n\n")
    with pytest.raises(ValueError, match="is empty"):
        read_list(path, "one id a line")
    path.write_text("b \r\n\na\n")
    assert read_list(path, "") == ["b", "a"]


@pytest.mark.parametrize("dataset, name, length", [
    ("cityscapes", "1_2", 1488), ("cityscapes", "1_30", 100), ("voc", "train_aug", 10582), ("voc", "92", 92),
])  # fmt: skip
def test_published_lists_have_their_published_lengths(dataset: str, name: str, length: int) -> None:
    ids = published_split(dataset, name)
    assert len(ids) == len(set(ids)) == length


def test_unknown_list_shows_those_there_are() -> None:
    with pytest.raises(ValueError, match="no published list called '1_3'; there are: 1_16, 1_2"):
        published_split("cityscapes", "1_3")


def test_16_bit_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    image = read_image(str(tmp_path / "deep.png"))
    assert image.mode == "RGB" and np.asarray(image)[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_a_list_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.txt")
    (tmp_path / "bytes.txt").write_bytes(b"a\xff\xfe")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "endless.txt").symlink_to("/dev/zero")
    for name, told in {
        "fifo": "is a FIFO and no file", "bytes": "holds other bytes than text", "folder": "is a folder and no file",
        "endless": "is a device and no file",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=rf"{name}\.txt: .*{told}"):
            read_list(tmp_path / f"{name}.txt", "one id a line")


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("in/a/1.png", "elsewhere/2.png"):
        (tmp_path / name).touch()
    (tmp_path / "in/a/up").symlink_to("..")
    (tmp_path / "in/a/here").symlink_to(".")
    for name in ("b", "c"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere")
    assert list(find_images(tmp_path / "in")) == ["a/1", "b/2", "c/2"]


def test_files_that_a_mac_leaves_beside_others_are_none(tmp_path):
    for name in ("a.json", "._a.json", "deep/.b.json", ".cache/c.json", "a.png", ".ipynb_checkpoints/a-checkpoint.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(paths_below(tmp_path, (".json",))) == ["a.json"]
    assert list(find_images(tmp_path)) == ["a"]


@pytest.mark.parametrize("ending", ["gif", "ppm", "pgm"])
def test_images_of_all_formats_that_are_read_are_found(tmp_path, ending):
    Image.new("L", (4, 3), 1).save(tmp_path / f"a.{ending}")
    assert list(find_images(tmp_path)) == ["a"]
