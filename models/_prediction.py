"""What every network returns, and how it turns a plain image into its own input range."""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear resize of (B, C, h, w) to `size` = (H, W); a map that has the size already is returned as it is."""
    # a graph traced for any size must not ask which size it has
    if not torch.compiler.is_exporting() and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def at_least_float32(x: Tensor) -> Tensor:
    """Half types are raised to float32, float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@dataclass
class Prediction:
    """One forward pass of a network.

    Attributes:
        logits: (B, K, h, w) class scores at the head's own stride, not resized.
        align_corners: how this family resizes its logits to another size (bilinear).
        aux: (B, K, h', w') scores of the auxiliary head, None without one, or outside training unless the
            network's `aux_wanted` is set.
        features: name -> (B, C, h, w); exactly the names in the network's `features_wanted`,
            their sizes are the network's `channels` and `strides`.
    """

    logits: Tensor
    align_corners: bool = False
    aux: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    def resized(self, size: tuple[int, int]) -> Tensor:
        """Logits at another size, the way this family does it.

        Args:
            size: (H, W) in pixels.

        Shapes:
            returns: (B, K, H, W), at least float32: interpolated half-precision scores tie at class borders.
        """
        return resize(at_least_float32(self.logits), size, self.align_corners)


# mean and standard deviation in grey levels 0..255, in the channel order the network reads
CONSTANTS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb"),
    "cirkd": ((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), "bgr"),
    "sam": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb"),
    "bisenetv2": ((83.0535, 94.095, 82.1865), (53.856, 54.774, 54.8325), "rgb"),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "rgb"),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb"),
}


class Normalize(nn.Module):
    """(images - mean) / std per channel, on the device, from uint8 RGB batches.

    Args:
        mean: three grey levels 0..255, in the network's channel order.
        std: three grey levels > 0, same order.
        order: `rgb` or `bgr`, the channel order the network was trained with.

    Attributes:
        makes_contiguous: whether the result is in torch's own memory format. Otherwise it is in that of the images, which
            are loaded channels last, and all the maps behind it are in it, too, whatever the weights' own.

    Shapes:
        images: (B, 3, H, W) RGB, uint8 or float in 0..255 -> (B, 3, H, W) in the network's own float type.

    Raises:
        ValueError: another order, not three values each, or a std that is not positive.
    """

    def __init__(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        order: Literal["rgb", "bgr"] = "rgb",
    ):
        super().__init__()
        if order not in ("rgb", "bgr"):
            raise ValueError(f"normalize: order must be rgb or bgr, got {order!r}")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"normalize: mean and std need three values each, std above 0; got {mean} and {std}")
        self.order = order
        self.makes_contiguous = False
        # not in the state dict: published checkpoints know no such keys
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def named(cls, name: str) -> "Normalize":
        """One of the published sets of constants: imagenet, cirkd, sam, unit (divides by 255), none."""
        if name not in CONSTANTS:
            raise ValueError(f"normalize: no constants called {name!r}; there are: {', '.join(CONSTANTS)}")
        mean, std, order = CONSTANTS[name]
        return cls(mean, std, order)

    @classmethod
    def of(cls, constants: str | dict) -> "Normalize":
        """From the name of a published set, or from {mean, std, order} as `constants` gives them."""
        return cls.named(constants) if isinstance(constants, str) else cls(**constants)

    @property
    def constants(self) -> str | dict:
        """What `of` makes this one from: the name of a published set where it is one."""
        mean, std = (tuple(round(value, 6) for value in table.flatten().tolist()) for table in (self.mean, self.std))
        for name, (known_mean, known_std, order) in CONSTANTS.items():
            close = all(abs(a - b) < 1e-3 for a, b in zip((*mean, *std), (*known_mean, *known_std)))
            if close and order == self.order:
                return name
        return {"mean": list(mean), "std": list(std), "order": self.order}

    @property
    def words(self) -> str:
        """The constants in a sentence."""
        mean, std = (" ".join(f"{value:.6g}" for value in table.flatten().tolist()) for table in (self.mean, self.std))
        name = f"{self.constants}: " if isinstance(self.constants, str) else ""
        return f"{name}mean {mean}, std {std}, {self.order}"

    def forward(self, images: Tensor) -> Tensor:
        if self.order == "bgr":
            images = images.flip(1)  # before the cast: a copy of bytes, not of floats
        if self.makes_contiguous:
            images = images.contiguous()
        if not images.is_floating_point():
            images = images.to(self.mean.dtype)
        return (images - self.mean) / self.std
