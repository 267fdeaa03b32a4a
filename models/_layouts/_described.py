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
    """Which network a state is, by the first mark in it: model -> an entry only it has, in their names and in ours.

    ValueError, which begins with `otherwise`: none of them.
    """
    for model, (theirs, ours) in marks.items():
        if (theirs if names == "theirs" else ours) in state:
            return model
    raise ValueError(f"{otherwise}; there are: {', '.join(marks)}")
