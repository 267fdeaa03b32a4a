"""Which files are opened as images, and what their pixels mean: the same in training, scoring and prediction."""

import os
import re
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps

from segkd.datasets._files import LabelledFiles, lookup_table, read_image, read_label
from segkd.datasets._images import PHOTOMETRIC
from segkd.runner.predicting.image_files import ImageFile, Picture, frames

ROOT = Path(__file__).parents[2]
TABLE = lookup_table({index: index for index in range(255)})


def save(path: Path, values, dtype=np.uint8, **settings) -> Path:
    Image.fromarray(np.array(values, dtype)).save(path, **settings)
    return path


def save_png(path: Path, values: np.ndarray, bits: int, color: int) -> Path:
    """A PNG of a kind that Pillow reads and does not write; color: 0 grey, 2 RGB. Rows of 4 bits have whole bytes."""
    height, width = values.shape[:2]
    if bits == 4:
        rows = (values[:, ::2] << 4 | values[:, 1::2]).astype(np.uint8)
    else:
        rows = values.reshape(height, -1).astype(">u2").view(np.uint8)
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    for kind, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)
    return path


def save_12_bit_tiff(path: Path) -> Path:
    """Two grey pixels, 0xfff and 0x800, of 12 bits in three bytes."""
    entries = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    words = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items())
    path.write_bytes(b"II*\0\x0c\0\0\0\xff\xf8\0\0" + struct.pack("<H", len(entries)) + words + b"\0\0\0\0")
    return path


def save_tiff(
    path: Path, strips: list[bytes], size: tuple[int, int], bits: int, order: str = "<", **entries: int
) -> Path:
    """An uncompressed TIFF; size: (H, W), entries: of further tags, as `_277=3`."""
    bands = entries.get("_277", 1)
    starts = [8 + sum(map(len, strips[:index])) for index in range(len(strips))]
    values = {256: [size[1]], 257: [size[0]], 258: [bits] * bands, 259: [1], 262: [2 if bands > 1 else 1]}
    values |= {273: starts, 278: [size[0]], 279: [len(strip) for strip in strips]}
    values |= {int(tag[1:]): [value] for tag, value in entries.items()}
    directory = 8 + sum(map(len, strips))
    words, beyond = b"", b""
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"{order}{len(numbers)}H", *numbers)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", directory + 2 + 12 * len(values) + 4 + len(beyond))
            packed, beyond = place, beyond + packed
        words += struct.pack(f"{order}HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(f"{order}I", directory) + b"".join(strips)
    path.write_bytes(head + struct.pack(f"{order}H", len(values)) + words + b"\0\0\0\0" + beyond)
    return path


def predicted(path: Path) -> np.ndarray | str:
    """What predict.py sees of a file, or why it sees nothing."""
    (found,) = frames(ImageFile(path, "x"))
    return found.pixels if isinstance(found, Picture) else found.reason


def greys(path: Path) -> list[int]:
    """The first row as training sees it, which is as prediction sees it."""
    pixels = np.asarray(read_image(str(path)))
    np.testing.assert_array_equal(pixels, predicted(path))
    assert pixels.ndim == 3 and (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


def test_what_has_a_known_white_is_scaled(tmp_path: Path) -> None:
    deep = save(tmp_path / "deep.png", [[0, 255, 256, 32768, 65535]], np.uint16)
    assert greys(deep) == greys(save(tmp_path / "deep.tif", np.asarray(Image.open(deep)), np.uint16))
    assert greys(deep) == [0, 0, 1, 128, 255]
    assert greys(save(tmp_path / "black.png", [[0, 0]], np.uint16)) == [0, 0]
    assert greys(save(tmp_path / "float.tif", [[0, 0.5, 1, 0.1]], np.float32)) == [0, 128, 255, 26]
    assert greys(save(tmp_path / "bits.png", [[False, True]], bool)) == [0, 255]
    assert greys(save_12_bit_tiff(tmp_path / "12.tif")) == [255, 128]
    (tmp_path / "12.pgm").write_bytes(b"P5 3 1 4095\n\x00\x00\x08\x00\x0f\xff")
    assert greys(tmp_path / "12.pgm") == [0, 128, 255]
    colors = np.array([[[0, 256, 65535], [32768, 0, 0]]])
    rgb = np.asarray(read_image(str(save_png(tmp_path / "48.png", colors, 16, 2))))
    assert rgb.tolist() == [[[0, 1, 255], [128, 0, 0]]]


def test_transparency_is_dropped(tmp_path: Path) -> None:
    for mode, color, suffix in (("RGBA", (1, 2, 3, 0), "png"), ("RGBA", (1, 2, 3, 9), "tif"), ("LA", (77, 0), "png")):
        path = tmp_path / f"{mode}.{suffix}"
        Image.new(mode, (2, 1), color).save(path)
        wanted = [color[:3] if mode == "RGBA" else (77,) * 3] * 2
        assert list(map(tuple, np.asarray(read_image(str(path)))[0])) == wanted
        assert np.array_equal(predicted(path)[0], wanted)


@pytest.mark.parametrize("name, values, dtype, told", [
    ("12.png", [[0, 4095]], np.uint16, "mode I;16.* from 0 to 4095: white is 65535"),
    ("14.tif", [[7, 16383]], np.uint16, "mode I;16.* from 7 to 16383: white is 65535"),
    ("32.tif", [[0, 255]], np.int32, "mode I and values from 0 to 255: nothing says which of them is white"),
    ("height.tif", [[-3, 99999]], np.int32, r"mode I and values from -3 to 99999"),
    ("float.tif", [[0, 200.5]], np.float32, "mode F and values from 0 to 200.5: floats are read from 0, black, to 1"),
    ("under.tif", [[-0.5, 0.5]], np.float32, "mode F and values from -0.5 to 0.5"),
    ("nan.tif", [[0, np.nan]], np.float32, "mode F and values from nan to nan"),
])  # fmt: skip
def test_what_has_no_known_white_is_refused(tmp_path: Path, name, values, dtype, told) -> None:
    path = save(tmp_path / name, values, dtype)
    with pytest.raises(ValueError, match=rf"{name}: has {told}.*; save it with 8 bits a channel"):
        read_image(str(path))
    assert re.search(told, predicted(path))


def test_colours_of_16_bits_that_are_all_dark_are_refused(tmp_path: Path) -> None:
    path = save_png(tmp_path / "dark.png", np.array([[[0, 4095, 9]]]), 16, 2)
    with pytest.raises(ValueError, match="dark.png: has mode RGB of 16 bits and values from 0 to 4095: white is 65535"):
        read_image(str(path))


def test_no_band_is_lost_in_silence(tmp_path: Path) -> None:
    for name, image, told in (
        ("four.tif", Image.new("RGBX", (2, 2)), "has 4 bands, of which 3 are its colours"),
        ("two.tif", Image.new("LA", (2, 2)), "has 2 bands, of which 1 are its colours"),
    ):
        image.save(tmp_path / name)
        if name == "two.tif":  # what is said to be transparency becomes a band of anything
            content = (tmp_path / name).read_bytes()
            said, nothing = (struct.pack("<HHIHH", 338, 3, 1, value, 0) for value in (2, 0))
            assert said in content
            (tmp_path / name).write_bytes(content.replace(said, nothing))
        with pytest.raises(ValueError, match=f"{name}: {told}.*networks see three"):
            read_image(str(tmp_path / name))
        assert told in predicted(tmp_path / name)


def test_labels_are_the_numbers_that_are_stored(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 7, 15], [2, 3, 4, 5]])
    for path in (
        save(tmp_path / "8.png", ids),
        save(tmp_path / "16.png", ids, np.uint16),
        save(tmp_path / "32.tif", ids, np.int32),
        save_png(tmp_path / "4.png", ids, 4, 0),
    ):
        assert np.array_equal(read_label(str(path), TABLE, ""), ids), path
    (tmp_path / "few.pgm").write_bytes(b"P5 2 1 7\n\x00\x07")
    with pytest.raises(ValueError, match="few.pgm: is a PPM file whose numbers Pillow stretches"):
        read_label(str(tmp_path / "few.pgm"), TABLE, "")


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_images_and_labels_are_upright_everywhere(tmp_path: Path, suffix: str, turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    steps = np.arange(6, dtype=np.uint8).reshape(2, 3).repeat(8, 0).repeat(8, 1)
    image = save(tmp_path / f"image.{suffix}", np.stack([steps * 40] * 3, -1), exif=exif)
    label = save(tmp_path / "label.png", steps, exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(image)).convert("RGB"))
    np.testing.assert_array_equal(read_image(str(image)), wanted)
    np.testing.assert_array_equal(predicted(image), wanted)
    upright = np.asarray(read_label(str(label), TABLE, ""))
    np.testing.assert_array_equal(upright, np.rint(wanted[..., 0] / 40))
    assert upright.shape == ((16, 24) if turned < 5 else (24, 16))


def test_a_damaged_exif_entry_turns_nothing(tmp_path: Path) -> None:
    image = save(tmp_path / "a.jpg", np.zeros((16, 24, 3)), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_image(str(image)).size == (24, 16)


def test_a_size_that_exif_explains(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    dataset = LabelledFiles()
    dataset.table, dataset.rule = TABLE, ""
    image, label = (
        save(tmp_path / "a.jpg", np.zeros((16, 24, 3)), exif=exif),
        save(tmp_path / "a.png", np.ones((16, 24))),
    )
    dataset.files = [(str(image), str(label))]
    told = r"a\.jpg is 24x16 but its label .*a\.png is 16x24 .*a\.jpg has an EXIF orientation, by which it was turned"
    with pytest.raises(ValueError, match=told):
        dataset[0]
    save(label, np.ones((24, 16)))
    assert dataset[0][0].size == dataset[0][1].size == (16, 24)


def test_a_file_of_several_images_is_no_pair_of_a_data_set(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (4, 3), (level, 0, 0)) for level in (10, 20, 30)]
    for suffix in ("tif", "gif", "png", "webp"):
        pages[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pages[1:])
        with pytest.raises(ValueError, match=rf"a\.{suffix}: holds 3 pages or frames"):
            read_image(str(tmp_path / f"a.{suffix}"))
    # smaller copies (overviews) and masks beside the image are no images of their own
    with Image.new("RGB", (4, 3), (10, 0, 0)) as image:
        image.encoderinfo = {}
        small = Image.new("RGB", (2, 2))
        small.encoderinfo = {"tiffinfo": {254: 1}}
        image.save(tmp_path / "b.tif", save_all=True, append_images=[small])
    assert Image.open(tmp_path / "b.tif").n_frames == 2
    assert read_image(str(tmp_path / "b.tif")).size == (4, 3) and predicted(tmp_path / "b.tif").shape == (3, 4, 3)


def test_other_formats_are_named_and_never_decoded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png", format="ICO")
    for name, told in (("a.png", "is of the format EPS"), ("b.png", "is of the format ICO")):
        told += "; those that are read are BMP, GIF, JPEG, PNG, PPM, TIFF and WEBP"
        for read in (read_image, lambda path: read_label(path, TABLE, "")):
            with pytest.raises(ValueError, match=f"{name}: {told}"):
                read(str(tmp_path / name))
        assert told in predicted(tmp_path / name)


def test_every_image_of_the_code_is_opened_in_one_place() -> None:
    opening = [file.relative_to(ROOT).as_posix() for room in ("datasets", "losses", "models", "runner")
               for file in (ROOT / room).rglob("*.py")
               if re.search(r"(?m)^ .*Image\.open\(", file.read_text(encoding="utf-8"))]  # fmt: skip
    assert opening == ["datasets/_images.py"]


def test_too_large_images_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    bomb = save_png(tmp_path / "bomb.png", np.zeros((1, 1)), 16, 0)
    content = bytearray(bomb.read_bytes())
    content[16:24] = struct.pack(">II", 100_000, 90_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    bomb.write_bytes(content)
    told = (
        r"is too large: 90000x100000 \(height x width\) are 9,000,000,000 pixels, and up to 180,000,000 are read \(data"
    )
    for read in (read_image, lambda path: read_label(path, TABLE, "")):
        with pytest.raises(ValueError, match=rf"bomb\.png: {told}"):
            read(str(bomb))
    assert re.match(told, predicted(bomb))
    image, label = save(tmp_path / "a.png", np.zeros((3, 4, 3))), save(tmp_path / "b.png", np.zeros((3, 4)))
    dataset = LabelledFiles()
    dataset.table, dataset.rule, dataset.max_pixels, dataset.files = TABLE, "", 12, [(str(image), str(label))]
    assert dataset[0][1].size == (4, 3)
    dataset.max_pixels = 11
    with pytest.raises(ValueError, match="a.png: is too large: 3x4"):
        dataset[0]
    save(image, np.zeros((3, 3, 3)))
    with pytest.raises(ValueError, match="b.png: is too large: 3x4"):
        dataset[0]


def test_what_is_no_file_is_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.png"))
        for name, told in {"fifo": "a FIFO", "folder": "a folder", "endless": "a device", "socket": "a socket"}.items():
            for read in (read_image, lambda path: read_label(path, TABLE, "")):
                with pytest.raises(ValueError, match=rf"{name}\.png: is {told} and no file"):
                    read(str(tmp_path / f"{name}.png"))
            assert predicted(tmp_path / f"{name}.png") == f"is {told} and no file"
    os.mkfifo(tmp_path / "fifo.mp4")
    assert predicted(tmp_path / "fifo.mp4") == "is no file"


def test_a_flipped_bit_of_the_pixels_is_told_by_the_checksum_of_a_png(tmp_path):
    """Pillow compares the checksums of all chunks but of these."""
    # stored, not compressed: each flipped bit is another grey level and no damage to the decoder
    pixels = np.zeros((8, 8), np.uint8)
    file = save(tmp_path / "a.png", pixels, compress_level=0)
    content = bytearray(file.read_bytes())
    at = content.index(b"IDAT") + 30
    content[at] ^= 4
    file.write_bytes(content)
    for reader in (read_image, lambda path: read_label(path, TABLE, "")):
        with pytest.raises(ValueError, match="checksum of its IDAT is another one"):
            reader(file)


def test_tiff_files_that_store_white_as_0(tmp_path: Path) -> None:
    """Pillow turns their numbers round where they have up to 8 bits."""
    for name, mode in (("ids", "L"), ("mask", "1"), ("deep", "I;16")):
        Image.new(mode, (4, 3), 1).save(tmp_path / f"{name}.tif", tiffinfo={PHOTOMETRIC: 0})
        with pytest.raises(ValueError, match="is a TIFF that stores white as 0; save it with black as 0"):
            read_label(str(tmp_path / f"{name}.tif"), TABLE, "")
    assert np.array(read_image(str(tmp_path / "ids.tif"))).min() == 1, "a picture may be stored so"
    with pytest.raises(ValueError, match="stores white as 0"):
        read_image(str(tmp_path / "deep.tif"))


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_files_that_store_one_channel_after_the_other(tmp_path: Path, order: str) -> None:
    """Those of 16 bits without compression are told: Pillow takes each of their bytes for a pixel."""
    generator = np.random.default_rng(0)
    for bits in (8, 16):
        pixels = generator.integers(2 ** (bits - 1), 2**bits, (3, 4, 5))  # (3, H, W)
        bands = [band.astype(f"{order}u{bits // 8}").tobytes() for band in pixels]
        path = save_tiff(tmp_path / f"{bits}.tif", bands, (4, 5), bits, order, _277=3, _284=2)
        if bits == 16:
            for reader in (read_image, lambda file: read_label(file, TABLE, "")):
                with pytest.raises(
                    ValueError, match="is a TIFF of 16 bits a channel that stores one channel after the"
                ):
                    reader(str(path))
            mixed = [pixels.transpose(1, 2, 0).astype(f"{order}u2").tobytes()]
            path = save_tiff(tmp_path / "mixed.tif", mixed, (4, 5), bits, order, _277=3)
        np.testing.assert_array_equal(np.asarray(read_image(str(path))), pixels.transpose(1, 2, 0) >> bits - 8)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("fill_order", [1, 2])
def test_ids_of_a_few_bits_in_a_tiff(tmp_path: Path, bits: int, fill_order: int) -> None:
    ids = np.random.default_rng(0).integers(0, 2**bits, (3, 16))
    words = ["".join(f"{value:0{bits}b}" for value in row) for row in ids]
    turned = slice(None, None, 1 if fill_order == 1 else -1)  # 2: the first pixel stands in a byte's lowest bits
    packed = bytes(int(word[at : at + 8][turned], 2) for word in words for at in range(0, len(word), 8))
    path = save_tiff(tmp_path / "a.tif", [packed], ids.shape, bits, _266=fill_order, _277=1)
    assert np.asarray(read_label(str(path), TABLE, "")).tolist() == ids.tolist()


def test_tiff_files_of_kinds_that_are_not_read(tmp_path: Path) -> None:
    """They are whole, and nobody is told that they are cut off."""
    grey = save_tiff(tmp_path / "grey.tif", [np.full((4, 5), 9, "<u2").tobytes()], (4, 5), 16, _277=1, _284=2)
    with pytest.raises(ValueError, match="grey.tif: stores its pixels in a way that is not read; save it as PNG"):
        read_label(str(grey), TABLE, "")
    odd = save_tiff(tmp_path / "odd.tif", [bytes(80)], (4, 5), 16, _277=2, _262=1, _338=2)
    with pytest.raises(
        ValueError, match="it begins as TIFF, and what follows is damaged or of a kind that is not read"
    ):
        read_image(str(odd))
