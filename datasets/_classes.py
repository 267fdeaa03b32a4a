"""The classes that are trained on, chosen by name from those of a data set: merged, renamed, ignored."""

from collections.abc import Iterable, Sequence
from typing import Annotated

from annotated_types import Len

from ._files import IGNORE_INDEX, excerpt
from ._palettes import Color, bit_palette

Classes = dict[str, str | Annotated[tuple[str, ...], Len(1)]]

IGNORE, KEEP, OTHERS = "ignore", "keep", "*"
MOST = 255  # of classes: label maps have 8 bits, and 255 is ignored


def choose_classes(
    names: Sequence[str], classes: Classes | None, void: Iterable[str] = ()
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The classes in their order, and for each of `names` its train id, 255 where it is ignored.

    Args:
        names: the data set's own; two of one name are one class.
        classes: as a recipe says them, `{road: [road, parking], void: ignore, "*": background}`: a class and the name
            or names that it is made of, or a name that is ignored. `"*"` says what becomes of all other names:
            `ignore`, `keep` (each is a class), or a class, here or of its own. Train ids count classes in this order.
            None: every name is a class.
        void: names that are ignored unless `classes` has them.

    Raises:
        ValueError: a name that the data set does not have or that is said twice, names of which nothing is said, no
            class, or more than 255.
    """
    chosen = {OTHERS: KEEP} if classes is None else classes
    class_of = _said(names, chosen)
    rest = [name for name in names if name not in class_of and name not in set(void)]
    others = chosen.get(OTHERS)
    if rest and others is None:
        raise ValueError(
            f"classes: it is not said what becomes of {listed(rest)}; name them, or all of them at once with "
            f'"*": ignore, "*": keep (each is a class of its own) or "*": and the name of a class'
        )
    found: dict[str, int] = {}
    for key, value in chosen.items():
        made = rest if (key, value) == (OTHERS, KEEP) else [] if value == IGNORE else [value if key == OTHERS else key]
        for name in made:
            found.setdefault(name, len(found))
    if not 0 < len(found) <= MOST:
        told = "with 8 bits a label map has at most 255; merge or ignore some by name" if found else "all are ignored"
        raise ValueError(f"classes: there are {len(found)}: {told}")
    class_of |= {name: name if others == KEEP else others for name in rest}
    return tuple(found), tuple(found.get(class_of.get(name, IGNORE), IGNORE_INDEX) for name in names)


def _said(names: Sequence[str], classes: Classes) -> dict[str, str]:
    """Name of the data set -> the class or `ignore` that a recipe says by name."""
    class_of: dict[str, str] = {}
    for key, value in classes.items():
        if key == IGNORE:
            raise ValueError(f"classes: no class may be called ignore; write {_first(value)}: ignore")
        if key == OTHERS and not isinstance(value, str):
            raise ValueError('classes: "*" becomes ignore, keep or one class, and not several')
        for name in (
            () if key == OTHERS else (key,) if value == IGNORE else (value,) if isinstance(value, str) else value
        ):
            if name not in names:
                raise ValueError(f"classes: {key}: the data set has no class {excerpt(name)}; it has {listed(names)}")
            if name in class_of:
                raise ValueError(f"classes: {excerpt(name)} is named twice, for {class_of[name]} and {key}")
            class_of[name] = IGNORE if value == IGNORE else key
    return class_of


def _first(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else value[0]


def colors_of(ids: Sequence[int], colors: Sequence[Color], num_classes: int) -> tuple[Color, ...]:
    """The colour of each class: that of the first name it is made of, else VOC's.

    Args:
        ids, colors: the train id and the colour of each name of the data set.
    """
    found = list(bit_palette(num_classes))
    for train_id, color in reversed(list(zip(ids, colors))):
        if train_id != IGNORE_INDEX:
            found[train_id] = color
    return tuple(found)


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names as a sentence may list them: each once, and of many only the first."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(excerpt, names[:most])) + more
