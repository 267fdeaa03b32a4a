"""In what two recipes differ, and which differences no weight depends on."""

import copy
import textwrap
from collections.abc import Iterable

from segkd.runner.recipe.yaml_file import one_line

LONGEST = 100  # letters of a value in a message
Difference = tuple[str, object, object]  # key, value before, value now
# what nothing that a run leaves depends on, but how soon it is there and what a kill would cost
IN_NO_RESULT = {
    *("data.root", "data.workers", "data.max_pixels", "data.allow_overlap", "data.cache", "data.cache_folder"),
    *("loop.save_every", "loop.keep_last", "loop.timeout", "evaluate.every", "evaluate.batch_size"),
    *("data.extra.pseudo.folder", "networks.*.cache.folder", "networks.*.cache.max_gib"),
    *("tracking.folder", "tracking.every", "tracking.gradients"),
}
# what may differ between the start of a run and its resume: nothing here changes the weights, nor how scores are made
MAY_CHANGE_ON_RESUME = {
    *(key for key in IN_NO_RESULT if not key.startswith("tracking.")),
    *("tracking", "data.test_split", "baseline", "method", "tuned", "evaluate.also", "evaluate.metrics"),
}

ORDERED = {"data.args.classes", "data.args.colors"}  # tables whose order says which id a class has


def changes(before: dict, now: dict) -> list[str]:
    """`optimizer.lr: 0.02 there, 0.01 here` for each value that differs and that weights depend on."""
    found = differences(*(without(values, MAY_CHANGE_ON_RESUME) for values in (before, now)))
    return [f"{key}: {in_words(old)} there, {in_words(new)} here" for key, old, new in found]


def in_words(value: object) -> str:
    """A value as YAML, without what is not set in it, and of a long one its beginning."""
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if inner is not None}
    return textwrap.shorten(one_line(value), LONGEST, placeholder=" ...")


def without(values: dict, keys: Iterable[str]) -> dict:
    """A copy of nested values less what stands at dotted keys, `*` being every word in its place."""
    values = copy.deepcopy(values)
    for key in keys:
        *outer, last = key.split(".")
        places = [values]
        for word in outer:
            inner = [one for place in places for one in (place.values() if word == "*" else [place.get(word)])]
            places = [one for one in inner if isinstance(one, dict)]
        for place in places:
            place.pop(last, None)
    return values


def differences(before: dict, now: dict, path: str = "") -> list[Difference]:
    """Each value that differs, dotted keys; None stands for a value that is not there."""
    found = []
    for key in dict.fromkeys([*before, *now]):
        here = f"{path}.{key}" if path else str(key)
        old, new = before.get(key), now.get(key)
        inside = isinstance(old, dict) and isinstance(new, dict)
        if inside and here in ORDERED and list(old) != list(new):
            found.append((here, old, new))
            continue
        if old == new and not inside:
            continue
        if isinstance(old, list) and isinstance(new, list):
            if len(old) == len(new) or any(isinstance(one, dict) for one in old + new):  # terms
                old, new = dict(enumerate(old)), dict(enumerate(new))
        inside = isinstance(old, dict) and isinstance(new, dict)
        found += differences(old, new, here) if inside else [(here, old, new)]
    return found
