"""What is wrong with a recipe, as sentences: where it was written, what was given, what is allowed, what was meant."""

import difflib
import re
import typing
from collections.abc import Iterable

import pydantic

from segkd.runner.recipe.allowed import allowed, field_at

Key = tuple[str | int, ...]
Mistake = tuple[Key, str]


class RecipeError(ValueError):
    """Everything that is wrong with a recipe, one line per mistake, found in one pass."""

    def __init__(self, mistakes: list[str]):
        self.mistakes = mistakes
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"the recipe has {count}:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))


class Origins(dict[Key, str]):
    """Path of a value in the recipe -> `file:line` (or `command line`) it was written at."""

    def of(self, key: Key) -> str:
        """Where `key`, or the nearest thing around it, was written."""
        while key and key not in self:
            key = key[:-1]
        return self.get(key, "")

    def by_hand(self, key: Key) -> bool:
        """Whether the command line set this value or a section that contains it."""
        return self.of(key) == "command line"

    def forget_inside(self, key: Key) -> None:
        """Drops the origins of what was inside `key`, which is about to be replaced as a whole."""
        for inner in [inner for inner in self if len(inner) > len(key) and inner[: len(key)] == key]:
            del self[inner]


def dotted(key: Key) -> str:
    """`losses.1.weight`, the way a path is written in errors and overrides."""
    return ".".join(str(word) for word in key) or "the recipe"


def did_you_mean(word: str, allowed: list[str]) -> str:
    """`, did you mean 'weight'?` where something close is allowed, else nothing."""
    close = close_to(word, allowed)
    return f", did you mean {close[0]!r}?" if close else ""


def close_to(word: str, allowed: Iterable[str]) -> list[str]:
    """Up to three of the allowed words that may be meant, the likeliest first."""
    allowed = list(allowed)
    close = [other for other in allowed if sorted(other) == sorted(word)]
    return close or difflib.get_close_matches(word, allowed, n=3)


def located(mistakes: list[Mistake], origins: Origins, path: str) -> list[str]:
    """`recipe.yaml:7: losses.1.wieght: ...` lines in the order of the file, each once."""
    lines = {f"{origins.of(key) or path}: {dotted(key)}: {text}": origins.of(key) for key, text in mistakes}
    numbers = {line: place.rpartition(":")[2] for line, place in lines.items()}
    return sorted(lines, key=lambda line: int(numbers[line]) if numbers[line].isdecimal() else 0)


def found_by(error: pydantic.ValidationError, schema: type[pydantic.BaseModel], values: object) -> list[Mistake]:
    """pydantic's errors as mistakes, one per place: pydantic reports every member of a union, which is one mistake.

    Args:
        values: what did not fit the schema.
    """
    mistakes = [_described(details, schema, values) for details in error.errors()]
    # if a member of a union matched in part, only what is wrong inside of it is reported
    outer = {key[:length] for key, _ in mistakes for length in range(len(key))}
    told: dict[Key, str] = {}
    for key, text in mistakes:
        if key in told and text.startswith("must be "):
            other = text.removeprefix("must be ").partition("; got ")[0]
            told[key] = told[key].replace("; got ", f" or {other}; got ", 1)
        elif key not in outer:
            told[key] = text
    return list(told.items())


def _described(details: dict, schema: type[pydantic.BaseModel], values: object) -> Mistake:
    """One pydantic error as (path, sentence)."""
    given, kind = details.get("input"), details["type"]
    key = _path(details["loc"], values, is_missing=kind == "missing")
    if kind == "extra_forbidden":
        allowed = _allowed_at(key[:-1], schema)
        return key, f"unknown key{did_you_mean(str(key[-1]), allowed)}; allowed here: {', '.join(allowed) or 'nothing'}"
    if kind == "missing":
        return key, "is missing and has no default"
    if kind == "string_pattern_mismatch":
        return key, f"must be letters, digits, '.', '_' or '-', beginning with a letter or digit; got {given!r}"
    text = re.sub(r"^(Input|List|Tuple|Dictionary) should", "must", details["msg"].removeprefix("Value error, "))
    for theirs, ours in ((" after validation", ""), ("an object", "a mapping"), ("a valid array", "a list")):
        text = text.replace(theirs, ours)
    return key, f"{text}; got {given!r}{_all_that_is_allowed(kind, key, schema)}"


def _all_that_is_allowed(kind: str, key: Key, schema: type[pydantic.BaseModel]) -> str:
    """What pydantic's sentence leaves out: the other end of a range, what a text means, of what a list is."""
    is_out_of_range = kind.startswith(("greater_than", "less_than"))
    if not is_out_of_range and kind not in ("string_type", "tuple_type", "list_type", "too_short", "too_long"):
        return ""
    told = schema.model_json_schema(by_alias=True)
    field = field_at(key, told)
    words = allowed(field, told.get("$defs", {}))
    if is_out_of_range:
        return f"; allowed is {words}" if re.search(r"(from|above) \S+ (to|below) ", words) else ""
    meaning = field.get("description", "")
    return f"; allowed is {words}" + (f" ({meaning})" if meaning else "") if field else ""


def _path(location: tuple, values: object, is_missing: bool) -> Key:
    """pydantic's location without the names of union members between the keys: the values have no such keys."""
    key: list[str | int] = []
    for depth, word in enumerate(location):
        is_key = word in values if isinstance(values, dict) else isinstance(values, list) and isinstance(word, int)
        if is_key or (is_missing and depth + 1 == len(location)):
            key.append(word)
            inside = isinstance(values, dict) or (isinstance(values, list) and word < len(values))
            values = values[word] if is_key and inside else None
    return tuple(key)


def _allowed_at(key: Key, schema: type[pydantic.BaseModel]) -> list[str]:
    """Keys allowed inside the section that stands at `key`, as they are written in YAML."""
    here: object = schema
    for word in key:
        here = _fields(here).get(word) if hasattr(here, "model_fields") else typing.get_args(here)[-1]
        if typing.get_origin(here) not in (dict, list):  # of a union, the section
            here = next((one for one in (here, *typing.get_args(here)) if hasattr(one, "model_fields")), here)
    return list(_fields(here))


def _fields(section: type[pydantic.BaseModel]) -> dict[str, object]:
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}
