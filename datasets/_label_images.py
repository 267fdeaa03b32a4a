"""Images of labels whose ids or colours are said by the user: from what a file holds to train ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval
from PIL import Image

from ._classes import Classes, choose_classes, colors_of
from ._files import IGNORE_INDEX, lookup_table, read_image, read_label
from ._images import MAX_PIXELS
from ._palettes import Color, bit_palette

LabelId = Annotated[int, Interval(ge=0, le=255)]


@dataclass(frozen=True)
class LabelImages:
    """What the label files of a data set mean.

    Attributes:
        class_names, palette: of the classes that are trained on.
        table, rule: how files of ids are read, see `read_label`.
        colors: train id of each colour, where files are painted; None: they hold ids.
    """

    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    table: tuple[int, ...]
    rule: str
    colors: dict[Color, int] | None

    def read(self, path: str, max_pixels: int = MAX_PIXELS, content: bytes | None = None) -> Image.Image:
        """The label file as train ids, mode L; `content`: its bytes, where they lie in another file."""
        if self.colors is None:
            return read_label(path, self.table, self.rule, max_pixels, content)
        rule = "is neither in the palette nor in void_colors (JPEG alters colours)"
        return read_painted(path, self.colors, rule, max_pixels, content)


def label_images(
    class_names: Sequence[str] | None,
    classes: Classes | None,
    palette: Sequence[Color] | None,
    colors: bool | Mapping[str, Color],
    void_colors: Sequence[Color],
    lookup: Mapping[int, int] | None,
    ignore: Sequence[int] | None,
) -> LabelImages:
    """What label files mean; the arguments are those of the data set `folder`.

    Raises:
        ValueError: they contradict each other.
    """
    if isinstance(colors, Mapping):
        if class_names is not None or palette is not None:
            raise ValueError("colors: a table of names and colours takes the place of class_names and palette")
        class_names, palette = tuple(colors), tuple(colors.values())
    if class_names is None:
        raise ValueError("class_names: is missing; name the class of each id, or give a table of names and colors")
    names, is_painted = tuple(class_names), colors is not False
    shades = bit_palette(len(names)) if palette is None else tuple(map(tuple, palette))
    if len(shades) != len(names):
        raise ValueError(f"palette: one colour per class, got {len(shades)} for {len(names)} classes")
    if is_painted and (palette is None or lookup is not None):
        raise ValueError("colors: labels made of colours need a palette and take no lookup of ids")
    if void_colors and not is_painted:
        raise ValueError("void_colors: only labels made of colours (colors: true) have them")
    if is_painted and set(ignore or ()) - {IGNORE_INDEX}:
        raise ValueError("ignore: labels made of colours have no ids to ignore; void_colors names their colours")
    chosen, ids = choose_classes(names, classes)
    table, rule = _id_table(lookup, ignore, ids)
    voids = tuple(map(tuple, void_colors))
    painted = None
    if is_painted:
        words = (*names, *("void_colors" for _ in voids))
        painted = color_ids(words, (*shades, *voids), (*ids, *(IGNORE_INDEX for _ in voids)))
    given = chosen == names or palette is not None  # else the classes have the first colours of VOC
    shown = colors_of(ids, shades, len(chosen)) if given else bit_palette(len(chosen))
    return LabelImages(chosen, shown, table, rule, painted)


def _id_table(
    lookup: Mapping[int, int] | None, ignore: Sequence[int] | None, train_ids: Sequence[int]
) -> tuple[tuple[int, ...], str]:
    """How ids are read, and which are allowed in words; `train_ids`: of each of the names that the ids count."""
    count = len(train_ids)
    mapping = {index: index for index in range(count)} if lookup is None else lookup
    for raw, place in mapping.items():
        if not (0 <= place < count or place == IGNORE_INDEX):
            raise ValueError(f"lookup: {raw} -> {place}; train ids are 0..{count - 1} and 255 (ignored)")
    ids = f"0..{count - 1}" if lookup is None else "those of lookup"
    if ignore is None:
        ignore = () if IGNORE_INDEX in mapping else (IGNORE_INDEX,)
    for raw in ignore if lookup else ():
        if lookup.get(raw, IGNORE_INDEX) != IGNORE_INDEX:
            raise ValueError(f"lookup: id {raw} is class {lookup[raw]} there, and `ignore` ignores it; change one")
    named = [*train_ids, *(IGNORE_INDEX for _ in range(256 - count))]
    mapping = {raw: named[place] for raw, place in mapping.items() if raw not in ignore}
    return lookup_table(mapping, ignore), f"allowed are {ids} and, ignored, {_ranges(ignore) or 'none'}"


def _ranges(ids: Sequence[int]) -> str:
    """`3, 7..255`: sorted ids in few words."""
    words: list[list[int]] = []
    for number in sorted(set(ids)):
        if words and words[-1][1] == number - 1:
            words[-1][1] = number
        else:
            words.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}..{last}" for first, last in words)


def color_ids(names: Sequence[str], colors: Sequence[Color], ids: Sequence[int]) -> dict[Color, int]:
    """Colour -> train id. ValueError where two names share a colour.

    Args:
        names, colors, ids: name, colour and train id of each class of the data set.
    """
    found: dict[Color, str] = {}
    for name, color in zip(names, colors, strict=True):
        if color in found:
            raise ValueError(f"palette: colour {color} occurs twice, for {found[color]} and {name}")
        found[color] = name
    return dict(zip(colors, ids))


def read_painted(
    path: str, ids: Mapping[Color, int], rule: str, max_pixels: int = MAX_PIXELS, content: bytes | None = None
) -> Image.Image:
    """An RGB image in which a colour stands for a class as train ids, mode L.

    Args:
        ids: the train id of every colour that may occur. rule: what is wrong with others, for the error.
        content: the file's bytes, where they lie in another file.

    Raises:
        ValueError: another colour.
    """
    known = {red << 16 | green << 8 | blue: train_id for (red, green, blue), train_id in ids.items()}
    codes = np.array(sorted(known), dtype=np.int32)
    train_ids = np.array([known[code] for code in sorted(known)], dtype=np.uint8)
    pixels = np.asarray(read_image(path, max_pixels, content)).astype(np.int32)
    found = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]  # (H, W)
    # neighbours mostly share a colour: each run is looked up once
    flat = found.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    runs = flat[starts]
    places = np.minimum(np.searchsorted(codes, runs), len(codes) - 1)
    unknown = np.unique(runs[codes[places] != runs])
    if len(unknown):
        shown = ", ".join(str((int(code) >> 16, int(code) >> 8 & 255, int(code) & 255)) for code in unknown[:5])
        raise ValueError(f"{path}: colour {shown} {rule}")
    target = np.repeat(train_ids[places], np.diff(np.append(starts, flat.size)))
    return Image.fromarray(target.reshape(found.shape))  # (H, W)
