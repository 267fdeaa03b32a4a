"""What the keys and shapes of a checkpoint tell about its network."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor


@dataclass
class Described:
    """A network a checkpoint fits.

    Attributes:
        model: file name in models/.
        num_classes: K.
        args: the network's arguments, those the tensors tell and those this layout implies (its published strides,
            dilation rule, align_corners, ...). Whether a network was dilated cannot be seen in its weights.
        normalize: the constants its images were normalised with, a name in models/_prediction.py.
    """

    model: str
    num_classes: int
    args: dict = field(default_factory=dict)
    normalize: str = "imagenet"


def model_of(
    state: dict[str, Tensor], marks: dict[str, tuple[str, str]], names: Literal["theirs", "ours"], otherwise: str
) -> str:
    """Which network a state is.

    Args:
        marks: model -> an entry that only this network has, in the names of another code and in ours; the first
            that is there decides.
        names: whose names the state has.
        otherwise: how the ValueError begins where it is none of them.
    """
    for model, (theirs, ours) in marks.items():
        if (theirs if names == "theirs" else ours) in state:
            return model
    raise ValueError(f"{otherwise}; there are: {', '.join(marks)}")
