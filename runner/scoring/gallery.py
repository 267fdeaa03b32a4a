"""The images of a report: the worst first and large, each at several steps; many more as thumbnails."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from segkd.datasets._images import open_image
from segkd.runner.run_folder.folder import tile_file

# a page of 1,000 images must open at once: this much of it are pictures, in base64 a third more
MOST_BYTES = 12 * 2**20
MOST_CARDS = 50  # images shown large
MOST_STEPS = 8  # iterations to go through
SIDE = 72  # pixels of a thumbnail's tile at most

Step = int | str  # what one goes through: iterations, or words
Files = Mapping[str, Mapping[Step, Path]]  # title of a tile -> step -> file


@dataclass(frozen=True)
class Tile:
    """A picture of a card, its size in pixels; `step` is None where all steps share it."""

    step: Step | None
    address: str
    size: tuple[int, int]
    is_shown: bool


@dataclass(frozen=True)
class Card:
    """An image: its tiles, by the titles of their places, and its mIoU."""

    name: str
    miou: float
    tiles: dict[str, list[Tile]]


@dataclass
class Gallery:
    """What a page shows of images: cards, (name, mIoU, address) of thumbnails, and how many there is no room for."""

    steps: Sequence[Step]
    shown: Step
    cards: list[Card] = field(default_factory=list)
    thumbnails: list[tuple[str, float, str]] = field(default_factory=list)
    missing: int = 0


def build_gallery(
    images: Mapping[str, Files], mious: Mapping[str, float], steps: Sequence[Step], shown: Step
) -> Gallery:
    """The images, the worst first.

    Args:
        images: name -> its tiles, in their order; a tile that does not change may have one step only.
        mious: of each image, NaN or missing where it is not known.
        shown: the step that is shown first.
    """
    gallery, room = Gallery(steps, shown), MOST_BYTES
    for name in sorted(images, key=lambda name: (_or_last(mious.get(name)), name)):
        miou = mious.get(name, math.nan)
        if len(gallery.cards) < MOST_CARDS:
            card = Card(name, miou, {title: _tiles(files, shown) for title, files in images[name].items()})
            size = sum(len(tile.address) * 3 // 4 for tiles in card.tiles.values() for tile in tiles)
            if size <= room:
                gallery.cards.append(card)
                room -= size
                continue
        address = _thumbnail(files[_step_shown(files, shown)] for files in images[name].values())
        room -= len(address) * 3 // 4
        if room < 0:
            gallery.missing = len(images) - len(gallery.cards) - len(gallery.thumbnails)
            break
        gallery.thumbnails.append((name, miou, address))
    return gallery


def files_of_run(
    folders: Mapping[str, Mapping[int, Path]], titles: Sequence[str], steps: Sequence[int]
) -> dict[str, dict[str, dict[int, Path]]]:
    """Image -> title -> iteration -> file, of the tiles that are there.

    Args:
        folders: image -> iteration -> the folder of its tiles.
    """
    found: dict[str, dict[str, dict[int, Path]]] = {}
    for name, own in folders.items():
        for title in titles:
            files = {step: tile_file(own[step], title) for step in steps if step in own}
            files = {step: file for step, file in files.items() if file.is_file()}
            if files:
                found.setdefault(name, {})[title] = files
    return found


def spread(steps: Iterable[int], best: int) -> list[int]:
    """At most `MOST_STEPS` of the iterations, spread evenly, the best and the last among them."""
    every = sorted(set(steps))
    if len(every) <= MOST_STEPS:
        return every
    chosen = {every[place] for place in np.linspace(0, len(every) - 1, MOST_STEPS).round().astype(int)}
    if best in every and best not in chosen:
        chosen.remove(min(chosen - {every[-1]}, key=lambda step: abs(step - best)))
        chosen.add(best)
    return sorted(chosen)


def image_mious(counts: np.ndarray) -> np.ndarray:
    """(N,) mean IoU of each image over the classes in its label or its prediction; NaN where there is none.

    Args:
        counts: (N, K, 3) intersection, label pixels and predicted pixels of each image (Confusion's `images`).
    """
    both, union = counts[..., 0], counts[..., 1] + counts[..., 2] - counts[..., 0]
    classes = (union > 0).sum(1)
    sums = np.divide(both, union, out=np.zeros(both.shape), where=union > 0).sum(1)
    return np.divide(sums, classes, out=np.full(len(counts), np.nan), where=classes > 0)


def _or_last(miou: float | None) -> float:
    return math.inf if miou is None or math.isnan(miou) else miou


def _step_shown(files: Mapping[Step, Path], shown: Step) -> Step:
    return shown if shown in files else list(files)[-1]


def _tiles(files: Mapping[Step, Path], shown: Step) -> list[Tile]:
    """What does not change from step to step stands once."""
    pictures = {step: file.read_bytes() for step, file in files.items()}
    if len(set(pictures.values())) == 1:
        pictures = {None: next(iter(pictures.values()))}
    at = None if None in pictures else _step_shown(files, shown)
    return [Tile(step, _address(picture), _size(picture), step == at) for step, picture in pictures.items()]


def _thumbnail(files: Iterable[Path]) -> str:
    """Tiles side by side, small, as one picture."""
    tiles = []
    for file in files:
        with open_image(file, None) as tile:
            tiles.append(tile.convert("RGB"))
            tiles[-1].thumbnail((SIDE, SIDE))
    strip = Image.new("RGB", (sum(tile.width for tile in tiles), max(tile.height for tile in tiles)))
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width
    buffer = io.BytesIO()
    strip.save(buffer, "WEBP", quality=60, method=2)
    return _address(buffer.getvalue())


def _size(picture: bytes) -> tuple[int, int]:
    with open_image("a tile", None, picture) as opened:  # reads no pixels
        return opened.size


def _address(picture: bytes) -> str:
    """An address that holds the picture."""
    kind = {b"\x89P": "png", b"\xff\xd8": "jpeg"}.get(picture[:2], "webp")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
