"""What every network returns, and how it turns a plain image into its own input range."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Prediction:
    """One forward pass of a network.

    Attributes:
        logits: (B, K, h, w) class scores at the head's own stride, not resized.
        align_corners: how this family resizes its logits to another size (bilinear).
        aux: (B, K, h', w') scores of the auxiliary head, None without one or outside training.
        features: name -> (B, C, h, w); the names, channels and strides are the network's
            `channels` and `strides`.
    """

    logits: Tensor
    align_corners: bool = False
    aux: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)


# mean and standard deviation in grey levels 0..255, in the channel order the network reads
CONSTANTS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb"),
    "cirkd": ((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), "bgr"),
    "sam": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb"),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "rgb"),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb"),
}


class Normalize(nn.Module):
    """(images - mean) / std per channel, on the device, from uint8 RGB batches.

    Args:
        mean: three grey levels 0..255, in the network's channel order.
        std: three grey levels, same order.
        order: `rgb` or `bgr`, the channel order the network was trained with.

    Shapes:
        images: (B, 3, H, W) RGB, uint8 or float in 0..255 -> (B, 3, H, W) float32 (float64 stays float64).
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], order: str = "rgb"):
        super().__init__()
        if order not in ("rgb", "bgr"):
            raise ValueError(f"normalize: order must be rgb or bgr, got {order!r}")
        self.order = order
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def named(cls, name: str) -> "Normalize":
        """One of the published sets of constants: imagenet, cirkd, sam, unit (divides by 255), none."""
        if name not in CONSTANTS:
            raise ValueError(f"normalize: no constants called {name!r}; there are: {', '.join(CONSTANTS)}")
        mean, std, order = CONSTANTS[name]
        return cls(mean, std, order)

    def forward(self, images: Tensor) -> Tensor:
        if not images.is_floating_point():
            images = images.float()
        if self.order == "bgr":
            images = images.flip(1)
        return (images - self.mean) / self.std
