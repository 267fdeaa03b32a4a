"""Colours for class ids."""

from typing import Annotated

from annotated_types import Interval

Level = Annotated[int, Interval(ge=0, le=255)]
Color = tuple[Level, Level, Level]


def bit_palette(num_colors: int) -> tuple[Color, ...]:
    """The colour map of the PASCAL VOC development kit: distinct colours for up to 256 ids, id 0 is black.

    Bit b of red, green, blue, counted from the highest, is bit 3b, 3b+1, 3b+2 of the id.
    """
    colors = []
    for index in range(num_colors):
        channels = [sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)
