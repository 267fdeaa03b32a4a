"""This project's own checkpoints: the names are the network's own, and the run folder tells the network."""

from torch import Tensor

from ._layout import Described


def fits(state: dict[str, Tensor]) -> bool:
    """Whether these may be our keys, an encoder's among them; asked after every other layout has said no."""
    return any(key.startswith("backbone.") for key in state)


def describe(state: dict[str, Tensor]) -> Described:
    """ValueError: a file of our own carries its network beside it."""
    raise ValueError(
        "a checkpoint of segkd does not tell its network by itself: give the run folder, whose config.json does, "
        "or write model and args in the recipe"
    )


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries as they are."""
    return dict(state)


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries as they are."""
    return dict(state)
