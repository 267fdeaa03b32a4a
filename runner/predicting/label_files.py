"""Predicted classes as PNG files: written whole or not at all, read back and checked, packed for a server."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segkd.datasets._images import UNDECODABLE, open_image, open_regular
from segkd.runner.run_folder.replacing import replacing

Palette = Sequence[Sequence[int]]
BIT_DEPTH = 24  # where a PNG's header has its bits a channel


def label_image(labels: np.ndarray, palette: Palette | None = None) -> Image.Image:
    """(H, W) uint8 ids as an image: grey (mode L), or with a palette of up to 256 colours (mode P)."""
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    if palette is not None:
        # all 256 colours: with fewer, Pillow would pack several pixels into a byte
        image.putpalette(full_palette(palette))
    return image


def full_palette(palette: Palette) -> bytes:
    """768 bytes: the colours one after another, black where there are none."""
    return bytes(level for color in palette for level in color).ljust(768, b"\0")


def save_png(image: Image.Image, file: Path, compress_level: int = 6) -> None:
    """Writes a PNG, with the folders above it, in one step: a kill leaves no half of one under its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        image.save(partial, format="PNG", compress_level=compress_level)


def check_label_file(file: Path, size: tuple[int, int], ids: Iterable[int], palette: Palette | None = None) -> None:
    """ValueError where a written label file is not what it must be.

    Args:
        size: height and width of its image. ids: what its pixels may hold.
        palette: the colours an indexed PNG must have; None asks for a grey one.
    """
    try:
        with open_regular(file) as content:
            bits = content.read(BIT_DEPTH + 1)[BIT_DEPTH]
        with open_image(file, max_pixels=None) as image:
            if (image.height, image.width) == tuple(size):  # another size may be too large to be read
                image.load()
    except FileNotFoundError:
        raise ValueError(f"{file}: is missing") from None
    except UNDECODABLE as error:
        raise ValueError(f"{file}: cannot be read back ({error}); delete it and start again") from None
    if (image.format, image.mode, bits) != ("PNG", "L" if palette is None else "P", 8):
        raise ValueError(f"{file}: must be an 8-bit {'grey' if palette is None else 'palette'} PNG; delete it")
    if (image.height, image.width) != tuple(size):
        raise ValueError(
            f"{file}: is {image.height}x{image.width} but its image is {size[0]}x{size[1]} (height x width); delete it"
        )
    if palette is not None and bytes(image.getpalette()).ljust(768, b"\0") != full_palette(palette):
        raise ValueError(f"{file}: has other colours than the palette it must have; delete it")
    wrong = sorted({value for value, count in enumerate(image.histogram()) if count} - set(ids))
    if wrong:
        raise ValueError(f"{file}: holds the ids {wrong[:10]}, which are not allowed; delete it")


def pack(folder: Path, archive: Path) -> None:
    """Packs what lies below a folder into a .zip or .tar.gz file; the same files give the same bytes.

    Paths inside are relative to the folder. The archive appears when it is complete.
    """
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    if archive.suffix == ".zip":
        with replacing(archive) as partial, zipfile.ZipFile(partial, "w") as packed:
            for name, file in files:
                entry = zipfile.ZipInfo(name)  # dated 1980, and stored as it is: PNGs do not get smaller
                entry.external_attr = 0o644 << 16
                packed.writestr(entry, file.read_bytes())
        return
    with (
        replacing(archive) as partial,
        open(partial, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as packed,
    ):
        for name, file in files:
            entry = tarfile.TarInfo(name)
            entry.size = file.stat().st_size
            packed.addfile(entry, io.BytesIO(file.read_bytes()))
