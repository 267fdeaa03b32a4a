"""Ranges that a recipe's fields and the commands' options share, for commands that look at them before the schema."""

from collections.abc import Sequence

from annotated_types import Interval

SIDES = Interval(ge=1, le=2**15)  # pixels of an image's height or width
SCALES = Interval(ge=0.05, le=16)  # factors on the image size


def are_within(values: Sequence[float], bounds: Interval) -> bool:
    """Whether all of them lie in a closed range; a NaN lies in none."""
    return all(bounds.ge <= value <= bounds.le for value in values)
