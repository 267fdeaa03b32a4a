"""One seed in a recipe, many for what is drawn."""

import zlib


def seed_for(seed: int, *purpose: object) -> int:
    """A seed for one purpose, so that building or drawing one thing more does not change the others."""
    return zlib.crc32(repr((seed, *purpose)).encode())
