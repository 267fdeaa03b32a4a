"""Small text files that people write, move and damage: what is none is told in a sentence, and never waited for."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

LARGEST = 2**24  # bytes of a recipe, or of what a run says of itself


def read_text(file: Path | str, largest: int = LARGEST) -> str:
    """The text of a regular file.

    Raises:
        FileNotFoundError: there is none. OSError: it may not be read.
        ValueError: it is a folder, a pipe, a socket or a device, larger than `largest` bytes, or not UTF-8.
    """
    if not stat.S_ISREG((found := os.stat(file)).st_mode):  # before it is opened: a pipe waits for who writes into it
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{file} is {kinds.get(stat.S_IFMT(found.st_mode), 'a device')}, not a text file")
    with open(file, "rb") as content:
        text = content.read(largest + 1)  # files of the system say that they have no bytes, and have many
    if len(text) > largest:
        size = max(found.st_size, len(text)) / 2**20
        raise ValueError(f"{file} has {size:.0f} MiB, which no file of its kind has (at most {largest >> 20})")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file in UTF-8") from None


def read_json(file: Path, fields: Mapping[str, type | tuple[type, ...]] = {}) -> dict:
    """A JSON object out of a file, which has `fields` of these types.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is damaged.
    """
    return parse_json(read_text(file), file, fields)


def parse_json(text: str, file: Path, fields: Mapping[str, type | tuple[type, ...]] = {}) -> dict:
    """A JSON object out of the text of a file, see read_json."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # not only of JSON: a number may have more digits than Python reads
        raise ValueError(f"{file} is no JSON ({error}); was it cut off?") from None
    given = values if isinstance(values, dict) else {}
    # True is an int to Python, and to nobody else
    wrong = [
        key for key, kind in fields.items() if not isinstance(given.get(key), kind) or isinstance(given[key], bool)
    ]
    if wrong or not isinstance(values, dict):
        raise ValueError(
            f"{file} was not written by segkd: {', '.join(wrong) or 'all of it'} missing or of another type"
        )
    return values
