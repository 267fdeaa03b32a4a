"""What the keys and shapes of a checkpoint tell about its network."""

from dataclasses import dataclass, field


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
