"""Damaged and strange images and labels, read as training, the unlabelled stream and predict.py read them.

What is judged: each reader either refuses the file with a sentence, or gives the pixels that were drawn into it (the
ids, for a label), upright; a format without checksums (all but PNG) cannot tell a flipped bit, so that there only the
end is judged. Scales that a file does not state must not be guessed: 12 bits in 16, floats, a fourth band.
"""

import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from faults.attempts import Case, Finding, attempt
from faults.damages import DAMAGES
from PIL import Image

from segkd.datasets._parts_of_a_set import ImagesBelow
from segkd.runner.predicting.image_files import ImageFile, Unreadable, frames
from segkd.runner.recipe import parts

SECONDS, MEMORY = 10, 2**30
HEIGHT, WIDTH = 40, 48
ROUNDING = 3  # levels that a change of mode may cost
LOSSY = 40  # levels that JPEG may cost in a picture of smooth colours
ANY = None  # whatever comes is no fault of ours: nothing in the file could tell

PIXELS = np.stack(np.meshgrid(np.arange(HEIGHT) * 6, np.arange(WIDTH) * 5, indexing="ij"), -1).astype(np.uint8)
PIXELS = np.concatenate([PIXELS, 255 - PIXELS[..., :1] // 2], -1)  # (H, W, 3), every turn and cut of it is another
IDS = np.zeros((HEIGHT, WIDTH), np.uint8)
IDS[5:20, 8:30], IDS[25:, 30:], IDS[:3] = 1, 2, 255
GREY = PIXELS[..., :1].repeat(3, -1)


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many files: every strange one once, then damaged ones."""
    strange = [_image_case(name, None) for name in STRANGE] + [_label_case(name, None) for name in STRANGE_LABELS]
    random.Random(f"images {seed}").shuffle(strange)
    for number in range(count):
        draw = random.Random(f"images {seed} {number}")
        if number % 2 and strange:
            yield strange.pop()
        elif draw.random() < 0.3:
            yield _label_case(draw.choice(list(DAMAGES)), draw)
        else:
            yield _image_case(draw.choice(list(DAMAGES)), draw)


def _image_case(name: str, draw: random.Random | None) -> Case:
    def run(folder: Path) -> Finding:
        write_label(folder)
        path, wanted, off = _write(folder, "images", name, draw)
        return judged(folder, path, wanted, off)

    return Case("images: damaged" if draw else "images: strange", name, run)


def _label_case(name: str, draw: random.Random | None) -> Case:
    def run(folder: Path) -> Finding:
        save(Image.fromarray(PIXELS), place(folder, "images", "png"))
        path, wanted, off = _write(folder, "labels", name, draw)
        return judged(folder, path, wanted, off)

    return Case("labels: damaged" if draw else "labels: strange", name, run)


def _write(folder: Path, kind: str, name: str, draw: random.Random | None) -> tuple[Path, np.ndarray | None, int]:
    """The file of a case, the pixels it should be read as, and how far off they may be."""
    array = PIXELS if kind == "images" else IDS
    if draw is not None:
        ending = draw.choice(list(FORMATS)) if kind == "images" else "png"
        path = place(folder, kind, ending)
        content = DAMAGES[name](encoded(Image.fromarray(array), ending), draw)
        path.write_bytes(content)
        lossy = ending in ("jpg", "webp")
        # a head with another size and a right checksum is what the file says
        is_told = ending == "png" and name != "other sizes in the head" or name in ("cut", "doubled")
        return path, array if is_told else ANY, LOSSY if lossy else 0
    made = (STRANGE if kind == "images" else STRANGE_LABELS)[name]
    ending = name.partition(" ")[0] if name.partition(" ")[0] in FORMATS else "png"
    path = place(folder, kind, ending)
    wanted, off = made(path) or (array, ROUNDING if kind == "images" else 0)
    return path, wanted, off


def judged(folder: Path, path: Path, wanted: np.ndarray | None, off: int) -> Finding:
    """What the readers make of the one image and label in a folder."""
    ending = attempt(folder, lambda: read_all(path), seconds=SECONDS, memory=MEMORY)
    if (folder / "exploded").exists():
        return Finding("code", "the canary is dead")
    if ending.trouble or ending.code == 2:
        return ending.finding
    refused = []
    for reader, (sentence, pixels) in ending.told.items():
        if sentence is not None:
            if len(sentence.splitlines()) > 10 or len(sentence) > 2000:
                return Finding("traceback", f"{reader}: a message of {len(sentence)} letters: {sentence[:500]}")
            refused.append(f"{reader}: {sentence}")
        elif wanted is not ANY:
            found = np.array(pixels, np.int64)
            if found.shape != wanted.shape:
                return Finding("nonsense", f"{reader}: {found.shape} in place of {wanted.shape}")
            difference = np.abs(found - wanted).max()
            if difference > off:
                return Finding("nonsense", f"{reader}: pixels are off by {difference} levels")
    return Finding("refused", "\n".join(refused)) if refused else Finding("fine")


def read_all(path: Path) -> dict[str, tuple[str | None, list | None]]:
    """Reader -> (its refusal, the pixels it gave) of the one image or label that matters; run in the folder."""
    of_labels = path.parent.name == "labels"
    given = {"class_names": ["a", "b", "c"]}
    given = parts.completed_arguments("datasets", "folder", given)
    found = {}

    def note(reader: str, read: Callable[[], np.ndarray]) -> None:
        try:
            found[reader] = None, np.asarray(read()).tolist()
        except (ValueError, OSError) as error:  # what the commands tell as a sentence
            found[reader] = str(error), None

    note("folder", lambda: parts.build("datasets", "folder", given, ".", "train")[0][1 if of_labels else 0])
    if not of_labels:
        note("unlabelled", lambda: ImagesBelow("train/images")[0][0])
        note("predict", lambda: _predicted(path))
    return found


def _predicted(path: Path) -> np.ndarray:
    picture = next(frames(ImageFile(path, "0")))
    if isinstance(picture, Unreadable):
        raise ValueError(picture.reason)
    return picture.pixels


def place(folder: Path, kind: str, ending: str) -> Path:
    """Where the data set's one image or label lies."""
    path = folder / "train" / kind / f"0.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_label(folder: Path) -> None:
    """The label of the image that is tried."""
    save(Image.fromarray(IDS), place(folder, "labels", "png"))


FORMATS = {"png": {}, "jpg": {"quality": 95}, "bmp": {}, "webp": {"lossless": True}, "tif": {"compression": "tiff_lzw"}}


def encoded(image: Image.Image, ending: str, **settings: object) -> bytes:
    """The image as a file of this ending."""
    buffer = io.BytesIO()
    names = {"jpg": "JPEG", "tif": "TIFF"}
    image.save(buffer, names.get(ending, ending.upper()), **{**FORMATS.get(ending, {}), **settings})
    return buffer.getvalue()


def save(image: Image.Image, path: Path, **settings: object) -> None:
    path.write_bytes(encoded(image, path.suffix[1:], **settings))


# ---- damages: bytes of a whole file -> bytes


def _mode(mode: str, wanted: np.ndarray = PIXELS, off: int = ROUNDING, **settings: object) -> Callable[[Path], tuple]:
    def write(path: Path) -> tuple:
        save(Image.fromarray(PIXELS).convert(mode), path, **settings)
        return wanted, off

    return write


def _array(
    array: np.ndarray, wanted: np.ndarray, mode: str | None = None, off: int = ROUNDING
) -> Callable[[Path], tuple]:
    def write(path: Path) -> tuple:
        save(Image.fromarray(array), path)
        return wanted, off

    return write


def _exif(orientation: object, array: np.ndarray = PIXELS) -> Callable[[Path], tuple]:
    """An image with this EXIF orientation; stored so that upright it is `array`."""
    turns = {2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: lambda x: x.swapaxes(0, 1),
             6: lambda x: np.rot90(x), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1), 8: lambda x: np.rot90(x, -1)}  # fmt: skip

    def write(path: Path) -> tuple:
        stored = np.ascontiguousarray(turns.get(orientation, lambda x: x)(array))
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(Image.fromarray(stored), path, exif=exif.tobytes(), **({"quality": 95} if path.suffix == ".jpg" else {}))
        return array, LOSSY if path.suffix == ".jpg" else 0

    return write


def _raw(content: bytes | str, wanted: np.ndarray | None = PIXELS) -> Callable[[Path], tuple]:
    def write(path: Path) -> tuple:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return wanted, 0

    return write


def _as(form: str, mode: str = "RGB", off: int = LOSSY) -> Callable[[Path], tuple]:
    """Another format under the name of this one."""

    def write(path: Path) -> tuple:
        Image.fromarray(PIXELS).convert(mode).save(path, form)
        return PIXELS, off

    return write


def _node(make: Callable[[Path], object], wanted: np.ndarray = PIXELS) -> Callable[[Path], tuple]:
    def write(path: Path) -> tuple:
        make(path)
        return wanted, 0

    return write


def _listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of these chunks behind its head."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*one) for one in ((b"IHDR", head), *chunks, (b"IEND", b"")))


def _with_chunk(kind: bytes, data: bytes) -> bytes:
    """The healthy PNG with one more chunk before its pixels."""
    content = encoded(Image.fromarray(PIXELS), "png")
    return content[:33] + _chunk(kind, data) + content[33:]


def _frames(form: str, **settings: object) -> Callable[[Path], tuple]:
    def write(path: Path) -> tuple:
        first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
        first.save(path, form, save_all=True, append_images=[second], **settings)
        return PIXELS, 64 if form == "GIF" else 0

    return write


def _bands(count: int, kind: type = np.uint8) -> bytes:
    """An uncompressed TIFF of the picture and further bands that it says nothing about."""
    further = np.full((HEIGHT, WIDTH, max(count - 3, 0)), 77, np.uint8)
    bands = np.concatenate([PIXELS, further], -1)[..., :count].astype(kind)
    if kind is not np.uint8:
        bands = bands * 257
    bits = 8 * bands.dtype.itemsize
    data = bands.tobytes()
    at = 8 + len(data) + len(data) % 2
    values = struct.pack(f"<{count}H", *[bits] * count)
    entries = [(256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, count, at), (259, 3, 1, 1), (262, 3, 1, 2 if count > 2 else 1), (273, 4, 1, 8),
               (277, 3, 1, count), (278, 4, 1, HEIGHT), (279, 4, 1, len(data))]  # fmt: skip
    if count not in (1, 3):
        entries.append((338, 3, count - 3 if count > 3 else 1, 0))
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", at + len(values)) + data + bytes(len(data) % 2) + values + directory


GREY16 = GREY[..., 0].astype(np.uint16)
EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 40\n(exploded) (w) file closefile\nshowpage\n%%EOF\n"
LATER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"

STRANGE: dict[str, Callable[[Path], tuple | None]] = {
    # modes
    "mode 1": _mode("1", ANY), "mode L": _mode("L", ANY), "mode LA": _array(np.dstack([GREY[..., 0], IDS * 0 + 255]), GREY),
    "mode P": _mode("P", ANY), "RGBA, opaque": _mode("RGBA"),
    "RGBA, half of it transparent": _array(np.dstack([PIXELS, IDS // 2]), PIXELS),
    "jpg CMYK": _mode("CMYK", off=LOSSY), "tif CMYK": _mode("CMYK"), "tif LAB": _mode("LAB", off=LOSSY),
    "jpg L": _mode("L", ANY),
    "16 bits": _array(GREY16 * 257, GREY, off=1),
    "12 bits in 16": _array((GREY16 * 16)[:, :40].repeat(1, 0), GREY[:, :40], off=1),
    "8 bits in 16": _array(GREY16, GREY, off=1),
    "tif 16 bits big-endian": _array((GREY16 * 257).astype(">u2"), GREY, off=1),
    "tif 32 bits": _array(GREY[..., 0].astype(np.int32) * 1000, GREY, off=1),
    "tif 32 bits, small": _array(GREY[..., 0].astype(np.int32), GREY, off=1),
    "tif float 0 to 1": _array((GREY[..., 0] / 255).astype(np.float32), GREY, off=1),
    "tif float 0 to 255": _array(GREY[..., 0].astype(np.float32), GREY, off=1),
    "tif float with NaN": _array(np.where(IDS == 1, np.nan, GREY[..., 0] / 255).astype(np.float32), GREY, off=1),
    "tif float with infinity": _array(np.where(IDS == 1, np.inf, GREY[..., 0]).astype(np.float32), GREY, off=1),
    "tif float below zero": _array((GREY[..., 0] / 255 - 0.5).astype(np.float32), GREY, off=1),
    "tif of four bands": lambda path: (path.write_bytes(_bands(4)), (-1 - PIXELS.astype(int), 0))[1],  # only a refusal
    "tif of five bands": lambda path: (path.write_bytes(_bands(5)), (-1 - PIXELS.astype(int), 0))[1],
    "tif of two bands": lambda path: (path.write_bytes(_bands(2)), (-1 - PIXELS.astype(int), 0))[1],
    "tif RGB of 16 bits": _raw(_bands(3, np.uint16)),
    # the way round
    **{f"EXIF orientation {turn}": _exif(turn) for turn in range(1, 9)},
    **{f"{ending} EXIF orientation 6": _exif(6) for ending in ("jpg", "webp", "tif")},
    **{f"EXIF orientation {turn}": _exif(turn) for turn in (0, 9, 300)},
    "jpg EXIF of noise": lambda path: save(Image.fromarray(PIXELS), path, exif=b"Exif\0\0" + random.Random(0).randbytes(80))
    or (PIXELS, LOSSY),
    # other formats under this name
    "EPS": _raw(EPS), "EPS by Pillow": _as("EPS"), "PDF": _as("PDF"), "GIF": _as("GIF", "RGB", 64), "PPM": _as("PPM"),
    "TGA": _as("TGA"), "PCX": _as("PCX"), "SGI": _as("SGI"), "DIB": _as("DIB"), "MPO": _as("MPO"), "IM": _as("IM"),
    "JPEG 2000": _as("JPEG2000"), "DDS": _as("DDS"), "JPEG": _as("JPEG"), "WEBP": _as("WEBP"), "ICO": _node(lambda path: Image.fromarray(PIXELS[:32, :32]).save(path, "ICO", sizes=[(32, 32)]), PIXELS[:32, :32]),
    "WMF": _raw(b"\xd7\xcd\xc6\x9a" + bytes(60)), "FITS": _raw("SIMPLE  =                    T".ljust(2880)),
    "XPM": _raw('/* XPM */ static char *x[] = {"1 1 1 1", "a c #000", "a"};'), "HDF5": _raw(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "SVG": _raw("<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>"), "ZIP": _raw(b"PK\3\4" + bytes(100)),
    # frames
    "GIF of two frames": _frames("GIF"), "APNG of two frames": _frames("PNG", default_image=False),
    "tif of two pages": _frames("TIFF"), "webp of two frames": _frames("WEBP", lossless=True),
    # bombs
    "a head of 60000 x 60000": _raw(png(60000, 60000, (b"IDAT", zlib.compress(bytes(1000))))),
    "a head of 4 billion squared": _raw(png(2**31 - 1, 2**31 - 1, (b"IDAT", zlib.compress(bytes(10))))),
    "20000 x 20000 zeros": _raw(png(20000, 20000, (b"IDAT", zlib.compress(bytes(4 * 10**6), 9)), colour=0)),
    "a size of 0": _raw(png(0, 10, (b"IDAT", zlib.compress(b"")))),
    "text of a gigabyte": lambda path: path.write_bytes(_with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 1))) and None,
    "a profile of noise": _raw(_with_chunk(b"iCCP", b"a\0\0" + bytes(40))),
    "tif with a directory that is its own next": _raw(b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 256, 4, 1, 10, 8)),
    # files that are none
    "empty": _raw(b""), "text": _raw("no image\n" * 100), "an LFS pointer": _raw(LATER), "HTML": _raw("<html>404</html>"),
    "a page's size of zeros": _raw(bytes(4096)), "a pickle": _raw(b"cos\nmkdir\n(S'exploded'\ntR."),
    "a named pipe": _node(os.mkfifo), "an endless device": _node(lambda path: path.symlink_to("/dev/zero")),
    "a random device": _node(lambda path: path.symlink_to("/dev/urandom")),
    "the console": _node(lambda path: path.symlink_to("/dev/tty")),
    "a folder": _node(Path.mkdir), "a link to nowhere": _node(lambda path: path.symlink_to("nowhere.png")),
    "a link to itself": _node(lambda path: path.symlink_to(path.name)), "a socket": _node(_listening),
    # sizes
    "smaller than its label": lambda path: save(Image.fromarray(PIXELS[:20, :24]), path) or (-1 - PIXELS[:20, :24].astype(int), 0),
    "a pixel": lambda path: save(Image.fromarray(PIXELS[:1, :1]), path) or (PIXELS[:1, :1], 0),
}  # fmt: skip
# readers without labels may take an image of any size
STRANGE["smaller than its label"] = lambda path: save(Image.fromarray(PIXELS[:20, :24]), path) or (PIXELS[:20, :24], 0)
STRANGE["12 bits in 16"] = lambda path: save(Image.fromarray(GREY16 * 16), path) or (GREY, 1)


def _ids(array: np.ndarray, wanted: np.ndarray = IDS) -> Callable[[Path], tuple]:
    return lambda path: save(Image.fromarray(array), path) or (wanted, 0)


def _palette(path: Path) -> tuple:
    label = Image.frombytes("P", (WIDTH, HEIGHT), IDS.tobytes())
    label.putpalette([level for index in range(256) for level in (255 - index, 7, 9)])
    save(label, path)
    return IDS, 0


NEVER = IDS.astype(int) - 1000  # no reader gives these: what must be refused

STRANGE_LABELS: dict[str, Callable[[Path], tuple | None]] = {
    "ids": _ids(IDS), "ids of 16 bits": _ids(IDS.astype(np.uint16)), "tif ids of 32 bits": _ids(IDS.astype(np.int32)),
    "ids in a palette": _palette, "an id too many": _ids(np.where(IDS == 2, 3, IDS).astype(np.uint8), NEVER),
    "ids above 255": _ids(IDS.astype(np.uint16) + 256, NEVER), "tif ids below zero": _ids(IDS.astype(np.int32) - 1, NEVER),
    "tif ids as floats": _ids(IDS.astype(np.float32)), "tif ids and a half": _ids(IDS.astype(np.float32) + 0.5, NEVER),
    "tif NaN": _ids(np.full(IDS.shape, np.nan, np.float32), NEVER), "colours": _ids(PIXELS, NEVER),
    "three equal bands": _ids(np.dstack([IDS] * 3)), "ids and opacity": _ids(np.dstack([IDS, IDS * 0 + 255])),
    "ids and transparency": _ids(np.dstack([IDS, IDS * 0])),
    "one bit": _ids(IDS == 1, (IDS == 1).astype(np.uint8)),
    "jpg": lambda path: save(Image.fromarray(IDS), path) or (IDS, 0),
    "smaller": _ids(IDS[:20, :24], NEVER[:20, :24]), "turned": _ids(np.ascontiguousarray(np.rot90(IDS)), NEVER.swapaxes(0, 1)),
    **{f"EXIF orientation {turn}": _exif(turn, IDS) for turn in (1, 2, 3, 6, 8)},
    "empty": _raw(b"", IDS), "EPS": _raw(EPS, IDS), "a named pipe": lambda path: os.mkfifo(path),
    "an endless device": lambda path: path.symlink_to("/dev/zero"), "a folder": Path.mkdir,
    "a head of 60000 x 60000": _raw(png(60000, 60000, (b"IDAT", zlib.compress(bytes(1000))), colour=0), IDS),
    "tif of two pages": lambda path: Image.fromarray(IDS).save(path, save_all=True, append_images=[Image.fromarray(IDS * 0)])
    or (IDS, 0),
}  # fmt: skip
