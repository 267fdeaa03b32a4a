"""Random changes of a recipe: of its tree of values, and of its text."""

import copy
import math
import random

from segkd.runner.recipe import parts

VALUES = [
    "word", "", " ", "5", "a" * 3000, "../../x", "\x1b[31mred", "$HOME", "~", "no", "1_000", "nan", "\u2603", "{a", "a\nb",
    "a\0b", "$NOT_THERE/x", "~nobody-of-this-name/x", "a/" * 3000,
    True, False, None, 0, 1, -1, 3, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.5, 1.5, 1e-30, 1e30, 1e308, -0.0,
    math.nan, math.inf, -math.inf, [], [1], [1, 2, 3], [[1]], ["a"], [None], {}, {"a": 1}, {"recipe": "tried.yaml"},
    list(range(2000)),
]  # fmt: skip


def _places(values: object, kinds: tuple[type, ...]) -> list[tuple[object, object]]:
    """(container, key) of everything of these kinds in nested values."""
    found = []
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, kinds):
            found.append((values, key))
        if isinstance(value, (dict, list)):
            found += _places(value, kinds)
    return found


ANY = (object,)


def other_value(tree: dict, draw: random.Random) -> str:
    place, key = draw.choice(_places(tree, ANY))
    value = place[key] = copy.deepcopy(draw.choice(VALUES))
    return f"{key} = {value!r:.60}"


def another_number(tree: dict, draw: random.Random) -> str:
    place, key = draw.choice(_places(tree, (int, float)) or _places(tree, ANY))
    numbers = [value for value in VALUES if isinstance(value, (int, float))]
    value = place[key] = draw.choice(numbers)
    return f"number {key} = {value!r}"


def nearby_number(tree: dict, draw: random.Random) -> str:
    """A number that may well be meant: what is computed with it must be able to."""
    places = [(place, key) for place, key in _places(tree, (int, float)) if not isinstance(place[key], bool)]
    if not places:
        return "no number"
    place, key = draw.choice(places)
    factor = draw.choice((-1, 0, 0.5, 2, 10))
    place[key] = type(place[key])(place[key] * factor) if draw.random() < 0.9 else place[key] + 0.5
    return f"{key} = {place[key]!r}"


def value_of_another(tree: dict, draw: random.Random) -> str:
    """A value of the same kind from somewhere else."""
    place, key = draw.choice(_places(tree, (int, float, str, list)))
    other, name = draw.choice(_places(tree, (type(place[key]),)))
    place[key] = copy.deepcopy(other[name])
    return f"{key} = that of {name}, {place[key]!r:.60}"


def missing_key(tree: dict, draw: random.Random) -> str:
    place, key = draw.choice(_places(tree, ANY))
    del place[key]
    return f"without {key}"


def renamed_key(tree: dict, draw: random.Random) -> str:
    places = [(place, key) for place, key in _places(tree, ANY) if isinstance(place, dict)]
    if not places:
        return "nothing to rename"
    place, key = draw.choice(places)
    new = draw.choice(
        (str(key)[:-1] or "x", f"{key}s", str(key).upper(), f"_{key}", str(key)[::-1], f"{key} ", "a.b", "")
    )
    place[new] = place.pop(key)
    return f"{key} renamed {new!r}"


def swapped(tree: dict, draw: random.Random) -> str:
    (place, key), (other, name) = (draw.choice(_places(tree, ANY)) for _ in range(2))
    place[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(place[key])
    return f"{key} and {name} swapped"


def of_another_part(tree: dict, draw: random.Random) -> str:
    """Another part under the arguments of this one."""
    places = [(place, key) for place, key in _places(tree, (str,)) if key in ("loss", "model", "dataset")]
    if not places:
        return "no part"
    place, key = draw.choice(places)
    room = {"loss": "losses", "model": "models", "dataset": "datasets"}[key]
    place[key] = draw.choice(parts.names(room))
    return f"{key} = {place[key]}"


def nested(tree: dict, draw: random.Random) -> str:
    place, key = draw.choice(_places(tree, ANY))
    depth, wrap = draw.choice((1, 1, 2, 100)), draw.choice((lambda value: [value], lambda value: {"a": value}))
    for _ in range(depth):
        place[key] = wrap(place[key])
    return f"{key} nested {depth} deep"


def in_a_circle(tree: dict, draw: random.Random) -> str:
    place, key = draw.choice(_places(tree, ANY))
    place[key] = draw.choice((place, tree))
    return f"{key} contains itself"


def another_key(tree: dict, draw: random.Random) -> str:
    places = [place for place, _ in _places({"tree": tree}, (dict,))] + [tree]
    dicts = [place[key] for place, key in _places({"tree": tree}, (dict,))]
    place, (source, key) = draw.choice(dicts or places), draw.choice(_places(tree, ANY))
    place[key if isinstance(key, str) else "extra"] = copy.deepcopy(source[key])
    return f"{key} once more elsewhere"


def longer(tree: dict, draw: random.Random) -> str:
    places = _places(tree, (list,))
    if not places:
        return "no list"
    place, key = draw.choice(places)
    place[key] = draw.choice((place[key] * 2, place[key][:-1], place[key] * 300, []))
    return f"{key} has {len(place[key])} entries"


CHANGES = (nearby_number, nearby_number, nearby_number, value_of_another, value_of_another, other_value, other_value, another_number, another_number, missing_key, renamed_key, swapped,
           of_another_part, nested, in_a_circle, another_key, longer)  # fmt: skip


# ---- changes of the text


def cut(text: bytes, draw: random.Random) -> bytes:
    return text[: draw.randrange(len(text) + 1)]


def flipped_bits(text: bytes, draw: random.Random) -> bytes:
    changed = bytearray(text or b"a")
    for _ in range(draw.choice((1, 3, 20))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def inserted_bytes(text: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.randbytes(draw.choice((1, 4, 300))) + text[at:]


def inserted_marks(text: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(text) + 1)
    mark = draw.choice((b"\t", b"\r\n", b": ", b"- ", b"#", b"{", b"[", b"&a ", b"*a", b"!!python/name:os.system ", b"|\n",
                        b"---\n", b"...\n", b"\0", b"\xef\xbb\xbf", b"? ", b"<<: ", b"\xe2\x80\xae", b"%TAG ! x\n"))  # fmt: skip
    return text[:at] + mark + text[at:]


def another_digit(text: bytes, draw: random.Random) -> bytes:
    return _another(text, draw, b"0123456789", b"0123456789.-e_x")


def another_letter(text: bytes, draw: random.Random) -> bytes:
    letters = b"abcdefghijklmnopqrstuvwxyz"
    return _another(text, draw, letters, letters)


def _another(text: bytes, draw: random.Random, of: bytes, by: bytes) -> bytes:
    """One byte of some kind replaced by another."""
    places = [at for at, byte in enumerate(text) if byte in of]
    if not places:
        return text
    at = draw.choice(places)
    return text[:at] + bytes([draw.choice(by)]) + text[at + 1 :]


def a_line_less(text: bytes, draw: random.Random) -> bytes:
    lines = text.splitlines(keepends=True) or [b""]
    lines.pop(draw.randrange(len(lines)))
    return b"".join(lines)


def a_line_twice(text: bytes, draw: random.Random) -> bytes:
    lines = text.splitlines(keepends=True) or [b""]
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return b"".join(lines)


def lines_moved(text: bytes, draw: random.Random) -> bytes:
    lines = text.splitlines(keepends=True) or [b""]
    at = draw.randrange(len(lines))
    lines[at] = draw.choice((b"  " + lines[at], lines[at].lstrip(), lines[at].rstrip() + b"  " + lines[at]))
    return b"".join(lines)


TEXT_CHANGES = (cut, flipped_bits, inserted_bytes, inserted_marks, a_line_less, a_line_less, a_line_twice, lines_moved,
                another_digit, another_digit, another_digit, another_letter)  # fmt: skip
