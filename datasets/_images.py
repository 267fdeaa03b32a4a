"""Opening image files: which are read, how large they may be, what their pixel values mean, and which way up they are.

Training, scoring and prediction read every image and label through these functions, so that a file means the same to
all of them.
"""

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
PAGED = ("GIF", "TIFF", "WEBP", "PNG")  # a phone's JPEG may hold other pictures too, such as its depth map
MAX_PIXELS = 180_000_000  # 540 MB as RGB
DARK = 16384
ONLY_DARK = "white is 65535, and an image that stays below 16384 may have 10, 12 or 14 bits that look black"
# what Pillow raises for a file that is cut off or is no image at all, depending on where the damage sits
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
ORIENTATION = 0x0112  # entry of EXIF: how the stored pixels have to be turned
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# entries of TIFF
PAGE_KIND, BITS, PHOTOMETRIC, BANDS, ARRANGEMENT, EXTRA_BANDS = 254, 258, 262, 277, 284, 338

# Pillow's own limit, one for the whole process, could not be raised for one data set
Image.MAX_IMAGE_PIXELS = None


class RefusedFile(ValueError):
    """A file that is not read though it may be whole: the sentence says what it is, and what is read."""


@contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """A file opened for reading. RefusedFile where it is none, such as a FIFO, whose reader would wait for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        raise RefusedFile(f"is {kinds.get(stat.S_IFMT(mode), 'a device')} and no file")
    with open(path, "rb") as file:
        yield file


@contextmanager
def open_image(
    path: str | Path, max_pixels: int | None = MAX_PIXELS, content: bytes | None = None
) -> Iterator[Image.Image]:
    """An image file of one of FORMATS, its header read and none of its pixels.

    Args:
        max_pixels: height times width that is still read; None: whoever opens it looks at the size.
        content: the file's bytes, where it lies inside of another one.
    """
    with open_regular(path) if content is None else io.BytesIO(content) as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.UnidentifiedImageError:
            file.seek(0)
            name = _format_of(file.read(16))
            if name is None:
                raise ValueError("it does not begin as any image does that is read here") from None
            if name in FORMATS:
                raise ValueError(
                    f"it begins as {name}, and what follows is damaged or of a kind that is not read"
                ) from None
            known = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]}"
            raise RefusedFile(f"is of the format {name}; those that are read are {known}") from None
        refuse_large(image, max_pixels)
        yield image


def refuse_large(image: Image.Image, max_pixels: int | None) -> None:
    """RefusedFile where an image (or the page it stands at) has more than so many pixels."""
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise RefusedFile(
            f"is too large: {image.height}x{image.width} (height x width) are {image.width * image.height:,} pixels, "
            f"and up to {max_pixels:,} are read (data.max_pixels of a recipe, --max-pixels of predict.py)"
        )


def pages(image: Image.Image) -> list[int]:
    """The pages or frames of an opened image that are images of their own; it stands at the first one afterwards.

    A TIFF's smaller copies of a page (overviews) and its masks do not count, nor do a phone's pictures within a JPEG.
    """
    count = getattr(image, "n_frames", 1) if image.format in PAGED else 1
    found = list(range(count))
    if image.format == "TIFF" and count > 1:
        found = [index for index in found if not _page_kind(image, index) & 0b101] or [0]
        image.seek(found[0])
    return found


def as_rgb(image: Image.Image) -> Image.Image:
    """The pixels of an opened image in mode RGB, upright.

    - 8 bits a channel of grey, colours, a palette, CMYK and so on are converted; 1 bit is black and white.
    - 16 bits keep their upper 8: 65535 is white (where a TIFF file says 12 bits, 4095). Floats are read from 0, black,
      to 1, white.
    - Transparency is dropped: the colours beneath it count.
    - Where nothing says which value is white, the image is refused: integers of 32 bits, floats outside 0..1, 16 bits
      without any value from 16384 on (the 10, 12 or 14 bits of a camera would become black). So are bands beyond
      colours and transparency.

    Raises:
        RefusedFile: with the mode and the range of values. Any of UNDECODABLE: a damaged file.
    """
    if image.format == "TIFF":
        _refuse_more_bands(image)
    raw_mode = _raw_mode(image)  # before load(), which forgets it
    _load(image)
    if image.mode == "F":
        rgb = _from_floats(image).convert("RGB")
    elif image.mode.startswith("I"):
        _refuse_white_is_zero(image)
        rgb = _from_integers(image, raw_mode).convert("RGB")
    else:
        if image.format in ("PNG", "TIFF") and image.mode in ("RGB", "RGBA") and ";16" in raw_mode:
            _refuse_dark(image)
        # convert() copies even when there is nothing to do: 6 MB an image at 1024x2048
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    return upright(rgb, orientation(image))


def as_ids(image: Image.Image) -> Image.Image:
    """The numbers stored in an opened image with one channel, upright, in mode L or P; a palette's colours do not
    count.

    Raises:
        RefusedFile: several channels, fractions, or numbers outside 0..255. Any of UNDECODABLE: a damaged file.
    """
    raw_mode, decoder = _raw_mode(image), image.tile[0][0] if image.tile else "raw"
    if decoder in ("ppm", "ppm_plain"):
        raise RefusedFile("is a PPM file whose numbers Pillow stretches to 0..255; save labels as PNG")
    _refuse_white_is_zero(image)
    _load(image)
    label = image if image.mode in ("L", "P") else _single_channel(image)
    # 2 and 4 bits, which Pillow stretches to 0..255; R: the first pixel in the lowest bits
    step = {"L;2": 85, "L;2R": 85, "L;4": 17, "L;4R": 17}.get(raw_mode)
    if step is not None:
        label = label.point([level // step for level in range(256)])
    return upright(label, orientation(image))


def orientation(image: Image.Image) -> int:
    """How the pixels of an opened image have to be turned, 1 for not at all (also where EXIF is damaged)."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except UNDECODABLE:
        return 1
    return found if found in TURNS else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of an opened image as its EXIF orientation says that it is seen, by its header."""
    return image.size if orientation(image) > 4 else image.size[::-1]


def upright(image: Image.Image, turned: int) -> Image.Image:
    """The image as its EXIF orientation says that it is seen."""
    return image.transpose(TURNS[turned]) if turned in TURNS else image


def _format_of(beginning: bytes) -> str | None:
    """Pillow's name of the format that a file begins as, by its first 16 bytes alone."""
    Image.init()
    for name, (_, accepts) in Image.OPEN.items():
        # who accepts any file (TGA) has no test; a sentence in place of True is a missing library
        if len(beginning) == 16 and accepts is not None and accepts(beginning) is True:
            return name
    return None


def _raw_mode(image: Image.Image) -> str:
    """How the values of an opened image, not yet loaded, are stored, in Pillow's words, such as RGB;16B."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _load(image: Image.Image) -> None:
    """Decodes the pixels of an opened image.

    Raises:
        RefusedFile: pixels stored in a way that Pillow reads as other values, or not at all.
    """
    if image.format == "TIFF":
        bits, bands = max(image.tag_v2.get(BITS, (1,))), image.tag_v2.get(BANDS, 1)
        is_apart = image.tag_v2.get(ARRANGEMENT, 1) == 2 and image.tile and image.tile[0][0] == "raw"
        if bits > 8 and bands > 1 and is_apart:  # of which Pillow takes every byte for a pixel
            raise RefusedFile(
                f"is a TIFF of {bits} bits a channel that stores one channel after the other without compression; save "
                f"it with the channels of a pixel side by side, or as PNG"
            )
    _compare_checksums(image)
    try:
        image.load()
    except ValueError as error:
        if "raw mode" not in str(error):
            raise
        raise RefusedFile("stores its pixels in a way that is not read; save it as PNG") from None


def _compare_checksums(image: Image.Image) -> None:
    """ValueError where the pixels of a PNG file are not what was written: Pillow compares all checksums but theirs."""
    if image.format != "PNG" or image.fp is None:  # of one that is decoded already nothing is left to be read
        return
    file, at = image.fp, image.fp.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        content, checksum = file.read(length), file.read(4)
        if kind in (b"IDAT", b"fdAT") and zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            raise ValueError(f"the checksum of its {kind.decode()} is another one")
    file.seek(at)


def _page_kind(image: Image.Image, index: int) -> int:
    """Bit 0: a smaller copy of another page; bit 2: a mask."""
    image.seek(index)
    return int(image.tag_v2.get(PAGE_KIND, 0))


def _refuse_white_is_zero(image: Image.Image) -> None:
    """RefusedFile for a TIFF that stores white as 0: Pillow turns the numbers of up to 8 bits round, and no others."""
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0:
        raise RefusedFile("is a TIFF that stores white as 0; save it with black as 0, or as PNG")


def _refuse_more_bands(image: Image.Image) -> None:
    """RefusedFile for TIFF files with bands besides colours and one of transparency, which Pillow drops in silence."""
    colors = {2: 3, 5: 4, 6: 3, 8: 3}.get(image.tag_v2.get(PHOTOMETRIC, 1), 1)
    bands, extra = image.tag_v2.get(BANDS, 1), tuple(image.tag_v2.get(EXTRA_BANDS, ()))
    if bands > colors and (bands > colors + 1 or extra not in ((1,), (2,))):
        raise RefusedFile(
            f"has {bands} bands, of which {colors} are its colours and the rest is not said to be transparency; "
            f"networks see three: save the image with those alone"
        )


def _from_floats(image: Image.Image) -> Image.Image:
    """Mode F in mode L."""
    values = np.asarray(image)  # (H, W)
    low, high = values.min(), values.max()
    if not (0 <= low and high <= 1):  # of NaN neither is true
        raise _of_unknown_white(image.mode, low, high, "floats are read from 0, black, to 1, white")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def _from_integers(image: Image.Image, raw_mode: str) -> Image.Image:
    """Grey of more than 8 bits in mode L."""
    values = np.asarray(image).astype(np.int64)  # (H, W)
    low, high = values.min(), values.max()
    is_declared = raw_mode == "I;12" or image.format == "PPM"  # whose values Pillow stretches to 0..65535
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # of which older Pillows hold 16 bits in 32
        raise _of_unknown_white(image.mode, low, high, "nothing says which of them is white")
    if 0 < high < DARK and not is_declared:
        raise _of_unknown_white(image.mode, low, high, ONLY_DARK)
    return Image.fromarray((values >> (4 if raw_mode == "I;12" else 8)).astype(np.uint8))


def _refuse_dark(image: Image.Image) -> None:
    """RefusedFile for colours of 16 bits, of which Pillow has kept the upper 8, that are all dark."""
    high = max(band.getextrema()[1] for band in image.split()[:3])
    if high < DARK >> 8:
        raise _of_unknown_white(f"{image.mode} of 16 bits", 0, 256 * high + 255, ONLY_DARK)


def _of_unknown_white(mode: str, low: float, high: float, why: str) -> RefusedFile:
    return RefusedFile(f"has mode {mode} and values from {low:g} to {high:g}: {why}; save it with 8 bits a channel")


def _single_channel(label: Image.Image) -> Image.Image:
    """One-bit and 16 or 32-bit files as mode L; colours and ids above 255 are refused."""
    ids = np.asarray(label)
    if ids.ndim != 2 or not (ids.dtype == bool or np.issubdtype(ids.dtype, np.integer)):
        raise RefusedFile(
            f"a label holds one id a pixel (mode L or P), this file has mode {label.mode}; "
            "labels made of colours are read by the data sets folder and huggingface with a table of them, such as "
            "colors: {background: [0, 0, 0], building: [255, 255, 255]}"
        )
    if ids.size and (ids.min() < 0 or ids.max() > 255):
        raise RefusedFile(f"label ids reach from {ids.min()} to {ids.max()}; they must lie in 0..255")
    return Image.fromarray(ids.astype(np.uint8))
