"""Files of transformers' SegformerForSemanticSegmentation, and the ImageNet files of its encoder."""

from torch import Tensor

from . import _segformer
from ._described import Described


def fits(state: dict[str, Tensor]) -> bool:
    """Whether these are the entries of such a file."""
    return _segformer.fits(state, "huggingface")


def describe(state: dict[str, Tensor]) -> Described:
    """The network the file fits."""
    return _segformer.describe(state, "huggingface")


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their entries under our names."""
    return _segformer.read(state, "huggingface")


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our entries under their names. ValueError for a network that transformers' SegFormer cannot be."""
    if not _segformer.is_ours(state):
        raise ValueError("the layout huggingface has entries for SegFormer only: choose another one")
    return _segformer.write(state, "huggingface")


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The ImageNet file of a Mix Transformer, of transformers, of the paper's code or of mmsegmentation."""
    return _segformer.backbone(state)
