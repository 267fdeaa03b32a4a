"""What the masks of a folder mean: which ids or colours they hold, and what these are called."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from segkd.datasets._files import IMAGE_SUFFIXES, read_text
from segkd.datasets._images import UNDECODABLE, as_ids, as_rgb, open_image, open_regular
from segkd.datasets._palettes import Color

MOST = 255  # classes
VOID = 255
LARGEST = 1_000_000  # bytes of a file that names classes
NAMING = re.compile(r"class|label|name|categor|color|colour|palette", re.IGNORECASE)
# what stands above a column, letters alone -> what it holds
COLUMNS = {
    word: kind
    for kind, words in {
        "name": "name class label category classname labelname", "id": "id index value pixelvalue classid labelid",
        "r": "r red", "g": "g green", "b": "b blue",
    }.items()
    for word in words.split()
}  # fmt: skip
BLACK, WHITE, BORDER = (0, 0, 0), (255, 255, 255), (224, 224, 192)


@dataclass
class Seen:
    """What masks hold, in pixels: `ids` where each has one channel (None otherwise), and the colours they show."""

    ids: Counter | None = field(default_factory=Counter)
    colors: Counter = field(default_factory=Counter)


@dataclass
class Names:
    """What a file says of classes: the names of ids and of colours, which file it is, and how it was understood.

    Attributes:
        are_counted: the file names no ids, and these are the places of its names, from 0.
    """

    file: str
    understood: str = ""
    are_counted: bool = False
    ids: dict[int, str] = field(default_factory=dict)
    colors: dict[Color, str] = field(default_factory=dict)


@dataclass
class Meaning:
    """The arguments of the data set `folder` that say what masks mean, and in words what was found."""

    args: dict
    said: str


def look_at_masks(files: Iterable[str]) -> Seen:
    """The ids and colours of masks.

    Raises:
        ValueError: one cannot be read, is of a format that alters ids, or holds more colours than there are classes.
    """
    seen, tables = Seen(), {}
    for file in files:
        try:
            refuse_lossy(file)
            with open_image(file) as image:
                is_single = image.mode in ("1", "L", "P", "I", "I;16", "I;16B")
                ids = as_ids(image) if is_single else None
            with open_image(file) as image:
                found = as_rgb(image).getcolors(MOST) if ids is None or ids.mode == "P" else None
        except UNDECODABLE as error:
            is_wide = "ids reach from" in str(error)
            cure = "; save masks as PNG of 8 bits, a number from 0 to 254 for each class" if is_wide else ""
            raise ValueError(f"{file}: cannot be read as a mask: {error}{cure}") from error
        if found is None and (ids is None or ids.mode == "P"):
            raise ValueError(
                f"{file}: is taken for a mask and has more than {MOST} colours, so its edges are smoothed or it is a JPEG; "
                f"masks have one colour, or one id, for each class: save them as PNG without smoothing"
            )
        counted = {} if ids is None else {level: count for level, count in enumerate(ids.histogram()) if count}
        shown = {color: count for count, color in found} if found else {(level,) * 3: n for level, n in counted.items()}
        seen.colors.update(shown)
        if ids is None:
            seen.ids = None
        elif ids.mode == "P":  # in some sets each file has a palette of its own: then the colours count
            palette = ids.getpalette()
            of_id = {level: tuple(palette[3 * level : 3 * level + 3]) for level in counted}
            if any(tables.setdefault(level, color) != color for level, color in of_id.items()):
                seen.ids = None
        if seen.ids is not None:
            seen.ids.update(counted)
    return seen


def refuse_lossy(file: str) -> None:
    """ValueError for a JPEG, also within a TIFF, and for a lossy WebP: the pixels are not those that were saved."""
    with open_image(file) as image:
        kind, compression = image.format, image.info.get("compression")
    if kind == "JPEG" or compression == "jpeg" or (kind == "WEBP" and _is_lossy_webp(file)):
        words = {"TIFF": "TIFF with JPEG inside", "WEBP": "lossy WebP"}
        raise ValueError(
            f"is a {words.get(kind, kind)}, which alters ids and colours; save masks as PNG from where they were made, "
            f"or give each pixel the class whose id or colour is nearest and save that as PNG"
        )


def _is_lossy_webp(file: str) -> bool:
    with open_regular(file) as content:
        content.seek(12)  # RIFF, its size, WEBP; then blocks, each a name, a size and as many bytes, filled up to even
        while len(head := content.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8 "
            size = int.from_bytes(head[4:], "little")
            content.seek(size + size % 2, 1)
    return False


def find_names(*folders: str) -> Names | None:
    """What a text, CSV or JSON file in the first of the folders that has one says of classes; None: none has any."""
    files = (path for folder in folders for path in sorted(Path(folder).iterdir()))
    for path in files:
        is_text = path.suffix.lower() in (".txt", ".csv", ".json") and path.is_file()
        if is_text and NAMING.search(path.stem) and path.stat().st_size <= LARGEST:
            try:
                names = _named(path)
            except (ValueError, RecursionError):  # no text, no JSON: another kind of file
                continue
            if names.ids or names.colors:
                return names
    return None


def _named(path: Path) -> Names:
    names, text = Names(path.name), read_text(path)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(re.split(r"[,;:\t]", line)[0].lower().endswith(IMAGE_SUFFIXES) for line in lines):
        return names  # a list of images
    if path.suffix.lower() == ".json":
        rows = _rows_of_json(json.loads(text))
    else:
        rows = [re.split(r"[,;:\t]+| +(?=\d)|(?<=\d) +", line) for line in lines]
    alone, of_four, header, columns = [], [], [], {}
    for row in rows:
        cells = [cell.strip().strip("\"'") for cell in row if cell.strip()]
        if not columns and (columns := _columns(cells)):
            header = cells
            continue
        if columns and len(cells) == len(header) and _take(names, {kind: cells[at] for kind, at in columns.items()}):
            continue
        numbers = [int(cell) for cell in cells if cell.isdecimal() and int(cell) < 256]
        words = [cell for cell in cells if not cell.isdecimal()]
        hexadecimal = next((word for word in words if re.fullmatch("#[0-9a-fA-F]{6}", word)), None)
        if hexadecimal:
            words.remove(hexadecimal)
            numbers = list(bytes.fromhex(hexadecimal[1:]))
        if not words or not numbers:
            alone += words[:1]
        elif len(numbers) == 4:
            of_four.append((words[0], numbers))
        elif len(numbers) >= 3:
            names.colors[tuple(numbers[-3:])] = words[0]
        else:
            names.ids[numbers[0]] = words[0]
    if of_four:
        _take_four(names, of_four)
    said = [*names.ids.values()]
    is_plain = path.suffix.lower() != ".json" and not any(re.search("[,;:\t]", line) for line in lines)
    if is_plain and not names.colors and said and (len(alone) > 1 or len({*said}) == 1 < len(said)):
        said, alone = [], lines  # `defect 2` among names, and `grade 1` beside `grade 2`, are names
    if not names.colors and not said:
        names.ids, names.are_counted = dict(enumerate(alone)), True
    return names


def _columns(cells: list[str]) -> dict[str, int]:
    """What the columns of a table hold -> their places, by the line above them; empty where this is none."""
    found: dict[str, int] = {}
    for place, cell in enumerate(cells):
        kind = COLUMNS.get(re.sub("[^a-z]", "", cell.lower()))
        if kind is not None:
            found.setdefault(kind, place)
    return found if "name" in found and ("id" in found or {"r", "g", "b"} <= found.keys()) else {}


def _take(names: Names, cells: dict[str, str]) -> bool:
    """Takes what a line of a table says, its cells by the kinds of COLUMNS; False where they do not hold that."""
    numbers = {
        kind: int(cell) for kind, cell in cells.items() if kind != "name" and cell.isdecimal() and int(cell) < 256
    }
    if cells["name"].isdecimal() or len(numbers) < len(cells) - 1:
        return False
    if "id" in numbers:
        names.ids[numbers["id"]] = cells["name"]
    if {"r", "g", "b"} <= numbers.keys():
        names.colors[numbers["r"], numbers["g"], numbers["b"]] = cells["name"]
    return True


def _take_four(names: Names, lines: list[tuple[str, list[int]]]) -> None:
    """Takes lines of a name and four numbers: a colour, and before or behind it an id, if that counts the lines."""
    firsts, lasts = ([numbers[place] for _, numbers in lines] for place in (0, 3))
    first, last = (numbers == list(range(numbers[0], numbers[0] + len(numbers))) for numbers in (firsts, lasts))
    for name, numbers in lines:
        names.colors[tuple(numbers[1:] if first or not last else numbers[:3])] = name
        if first or last:
            names.ids[numbers[0 if first else 3]] = name
    what = "an id and a colour" if first else "a colour and an id" if last else "a number without meaning and a colour"
    names.understood = f" (whose lines are read as {what})"


def _rows_of_json(content: object) -> list[list[str]]:
    """The rows of {name: [r, g, b]}, {id: name}, {name: id} and of a list of names or of {name, color} or {name, id}.

    Such a list may stand under a word, `{classes: [...]}`.
    """

    def flat(value: object) -> list[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [str(value)] if inner is None else [text for one in inner for text in flat(one)]

    if isinstance(content, dict):
        lists = [one for one in content.values() if isinstance(one, list) and one and isinstance(one[0], (str, dict))]
        if len(lists) == 1:  # {classes: [...]}
            return [flat(value) for value in lists[0]]
        return [[str(key), *flat(value)] for key, value in content.items()]
    return [flat(value) for value in content] if isinstance(content, list) else []


def meaning_of(seen: Seen, names: Names | None, is_whole: bool) -> Meaning:
    """What the masks mean.

    Args:
        is_whole: all of them have been looked at.

    Raises:
        ValueError: they hold one id or colour alone, or levels of grey between black and white.
    """
    found = seen.colors if seen.ids is None else seen.ids
    between = _levels_between(seen)
    if between:
        raise ValueError(
            f"the masks hold 0, 255 and {between} levels between them, so their edges are smoothed or they are JPEG; "
            f"save them as PNG with 0 and 255 alone"
        )
    if len(found) < 2:
        only = f"the {'colour' if seen.ids is None else 'id'} {next(iter(found))}"
        raise ValueError(f"all masks hold {only} and nothing else, so there is nothing to learn from them")
    if seen.ids is None:
        return _of_colors(seen.colors, names)
    return _of_ids(sorted(seen.ids), names, is_whole)


def _levels_between(seen: Seen) -> int:
    """How many levels of grey there are between black and white where these are edges, and not classes; else 0."""
    levels = seen.ids
    if levels is None and all(color == color[:1] * 3 for color in seen.colors):  # grey in three channels
        levels = Counter({color[0]: count for color, count in seen.colors.items()})
    if levels is None or not (levels[0] and levels[VOID]):
        return 0
    between = [level for level in levels if level not in (0, VOID)]
    are_few_pixels = levels.total() - levels[0] - levels[VOID] < 0.1 * levels.total()
    # ids are counted from 0, and edges have dark levels and light ones
    are_on_both_sides = len(between) > 3 and min(between) < 128 <= max(between)
    return len(between) if are_few_pixels and are_on_both_sides else 0


def _of_colors(colors: Counter, names: Names | None) -> Meaning:
    named = dict(names.colors) if names else {}
    shown = [color for color, _ in colors.most_common()]
    rest = [color for color in shown if color not in named and color != BORDER]
    rest.sort(key=lambda color: color != BLACK)
    is_pair = not named and len(rest) == 2 and BLACK in rest
    for color in rest:
        other = "foreground" if is_pair else f"color {' '.join(map(str, color))}"
        named[color] = "background" if color == BLACK else other
    table = {}
    for color, name in named.items():
        table[name if name not in table else f"{name} {' '.join(map(str, color))}"] = list(color)
    args: dict = {"colors": table}
    if BORDER in shown and BORDER not in named:
        args["void_colors"] = [list(BORDER)]
    said = f"are painted in {len(shown)} colours"
    if names and names.colors:
        said += f", named in {names.file}{names.understood}" + (f" but for {len(rest)}" if rest else "")
    return Meaning(args, said)


def _of_ids(ids: list[int], names: Names | None, is_whole: bool) -> Meaning:
    shown = ", ".join(map(str, ids[:20])) + (", ..." if len(ids) > 20 else "")
    said = f"hold the ids {shown}"
    known = names.ids if names else {}
    if ids == [0, VOID] and len(known) in (1, 2) and VOID not in known:  # two classes, black and white
        known = dict(zip(ids, ["background", *known.values()][-2:]))
    is_spread = not known and len(ids) > 2 and _is_spread(ids)
    counted = [one for one in ids if one != VOID or len(ids) == 2 or VOID in known or is_spread]
    if is_spread:
        said += (
            f" in equal steps, so {VOID} is taken for a class (if it is none, take it out of class_names and lookup)"
        )
    elif len(counted) < len(ids):
        said += f" ({VOID}: ignored)"
    if known:
        said += f", named in {names.file}{names.understood}"
        if names.are_counted and max(counted) == len(known):
            said += " from 1 on"
            known = ({0: "background"} if 0 in counted else {}) | {key + 1: name for key, name in known.items()}
        counted = sorted({*counted, *known})
    elif len(counted) == 2:
        known = {counted[0]: "background", counted[1]: "foreground"}
    elif not is_whole and counted[-1] < 2 * len(counted):  # those that were not looked at may hold what is between
        counted = list(range(counted[-1] + 1))
    args: dict = {"class_names": [known.get(one, f"class {one}") for one in counted]}
    if counted != list(range(len(counted))):
        args["lookup"] = {one: place for place, one in enumerate(counted)}
    return Meaning(args, said)


def _is_spread(ids: list[int]) -> bool:
    """Whether ids, in their order, reach from 0 to 255 in equal steps, as classes do that are to be told by eye."""
    step = VOID / (len(ids) - 1)
    return step > 2 and all(abs(one - place * step) <= 1 for place, one in enumerate(ids))
