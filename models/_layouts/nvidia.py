"""Checkpoints of SegFormer's own code, which is mmsegmentation's with another encoder and head."""

from torch import Tensor

from . import _segformer
from ._described import Described


def fits(state: dict[str, Tensor]) -> bool:
    """Whether these are the entries of such a file."""
    return _segformer.fits(state, "nvidia")


def describe(state: dict[str, Tensor]) -> Described:
    """The network the file fits."""
    return _segformer.describe(state, "nvidia")


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their entries under our names, without those of a classifier that their head holds and never reads."""
    return _segformer.read(state, "nvidia")


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our entries under their names, the classifier that is never read as zeros.

    Raises:
        ValueError: a network that SegFormer's code does not have.
    """
    if not _segformer.is_ours(state):
        raise ValueError("the layout nvidia has entries for SegFormer only: choose another one")
    return _segformer.write(state, "nvidia")
