"""Label files as bytes: what is written, what is found wrong in them, archives that are the same each time."""

import os
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from segkd.runner.predicting.label_files import check_label_file, label_image, pack, save_png

LABELS = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
PALETTE = ((10, 20, 30), (40, 50, 60), (70, 80, 90))


def header_of(file):
    """(width, height, bit depth, colour type) by the PNG specification."""
    content = file.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR"
    return struct.unpack(">IIBB", content[16:26])


def test_grey_and_palette_files_hold_a_byte_a_pixel(tmp_path):
    save_png(label_image(LABELS), tmp_path / "a/b/grey.png")
    save_png(label_image(LABELS, PALETTE), tmp_path / "palette.png")
    assert header_of(tmp_path / "a/b/grey.png") == (3, 2, 8, 0)
    assert header_of(tmp_path / "palette.png") == (3, 2, 8, 3)
    for name in ("a/b/grey.png", "palette.png"):
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), LABELS)
    colors = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    assert colors.tolist() == [[list(PALETTE[index]) for index in row] for row in LABELS]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "grey.png", "palette.png"]


def save(image):
    return lambda file: image.save(file)


@pytest.mark.parametrize("damage, size, ids, palette, told", [
    (save(label_image(LABELS)), (3, 2), range(3), None, r"x\.png: is 2x3 but its image is 3x2 \(height x width\)"),
    (save(label_image(LABELS)), (2, 3), [1], None, r"holds the ids \[0, 2\]"),
    (save(label_image(LABELS)), (2, 3), range(3), PALETTE, "must be an 8-bit palette PNG"),
    (save(label_image(LABELS, PALETTE)), (2, 3), range(3), PALETTE[::-1], "other colours"),
    (save(Image.fromarray(np.zeros((2, 3, 3), np.uint8))), (2, 3), range(3), None, "must be an 8-bit grey PNG"),
    (save(Image.fromarray(LABELS.astype(bool))), (2, 3), range(3), None, "must be an 8-bit grey PNG"),  # 1 bit a pixel
    (lambda file: file.write_bytes(file.read_bytes()[:40]), (2, 3), range(3), None, "cannot be read back"),
    (lambda file: file.write_bytes(b""), (2, 3), range(3), None, "cannot be read back"),
    (lambda file: file.unlink(), (2, 3), range(3), None, "is missing"),
    (lambda file: (file.unlink(), os.mkfifo(file)), (2, 3), range(3), None, "cannot be read back .is a FIFO"),
])  # fmt: skip
def test_files_are_checked_from_the_disk(tmp_path, damage, size, ids, palette, told):
    file = tmp_path / "x.png"
    for colors in (PALETTE, None):
        save_png(label_image(LABELS, colors), file)
        check_label_file(file, (2, 3), range(3), colors)
    damage(file)
    with pytest.raises(ValueError, match=told):
        check_label_file(file, size, ids, palette)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "x.png"
    save_png(label_image(LABELS), file)
    before = file.read_bytes()
    with pytest.raises(OSError):
        save_png(Image.new("F", (2, 2)), file)  # no PNG holds floats
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("name", ["labels.zip", "labels.tar.gz"])
def test_archives_are_the_same_each_time(tmp_path, name):
    packed = []
    for order in (("b", "a/c"), ("a/c", "b")):
        folder = tmp_path / order[0].replace("/", "-")
        for stem in order:
            save_png(label_image(LABELS + (stem == "b")), folder / f"{stem}.png")
        pack(folder, tmp_path / name)
        packed.append((tmp_path / name).read_bytes())
    assert packed[0] == packed[1]
    content = (tmp_path / "b/a/c.png").read_bytes()
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert archive.namelist() == ["a/c.png", "b.png"] and archive.read("a/c.png") == content
            assert archive.testzip() is None
    else:
        with tarfile.open(tmp_path / name) as archive:
            assert archive.getnames() == ["a/c.png", "b.png"]
            assert archive.extractfile("a/c.png").read() == content
            assert {(entry.mtime, entry.uid, entry.mode) for entry in archive} == {(0, 0, 0o644)}
