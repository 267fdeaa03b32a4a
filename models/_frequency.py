"""Channel attention that weighs a channel by how much of it lies in a band of spatial frequencies.

The band filter of TriKD, see models/_trikd_decoder.py; formulas are the released code's, as the paper was not at hand.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ._heads import ConvBNReLU
from ._prediction import at_least_float32

Band = Literal["low", "high"]
Center = Literal["released", "dc"]
CutoffUnit = Literal["cycles_per_map", "cycles_per_pixel"]


class BandFilter(nn.Module):
    """r = |ifft2(gain * fft2(x))| channel by channel, gain = g for the low band and 1 - g for the high one.

        g(u, v) = exp(-((u - u0)^2 / (2 a^2) + (v - v0)^2 / (2 b^2)))

    u, v: signed frequency, in cycles per map height and width.

    Args:
        band: what passes.
        cutoff: a = b = cutoff in cycles per map; a = cutoff * h and b = cutoff * w in cycles per pixel.
        cutoff_unit: `cycles_per_map` is the released code's: of the same texture on a larger map less counts as low.
            With `cycles_per_pixel` it is the same share on maps of every size.
        center: `dc`: u0 = v0 = 0. `released`: -1 along an even side, 0 along an odd one. One bin off, the gain is not
            symmetric, which makes the filtered map complex and even a constant map leave something in the high band.

    Shapes:
        x: (B, C, h, w) -> (B, C, h, w), at least float32: half types are raised, as no transform exists for bfloat16.

    Raises:
        ValueError: a cutoff above half a cycle per pixel.
    """

    def __init__(
        self,
        band: Band,
        cutoff: float = 10.0,
        cutoff_unit: CutoffUnit = "cycles_per_map",
        center: Center = "released",
    ):
        super().__init__()
        if cutoff_unit == "cycles_per_pixel" and cutoff > 0.5:
            raise ValueError(f"cutoff must be at most 0.5 cycles_per_pixel, got {cutoff}")
        self.band, self.cutoff, self.cutoff_unit, self.center = band, cutoff, cutoff_unit, center

    def forward(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        height, width = x.shape[-2:]
        rows, columns = (self.low_gain(side, x) for side in (height, width))
        # The gain stands in the spectrum's own order, so no complex map is shifted. It is made anew each time (0.05 ms
        # beside 17 and more of the transforms on a CPU) rather than held for one size, device and type.
        if self.center == "released":
            return torch.fft.ifft2(torch.fft.fft2(x) * self.gain(rows, columns)).abs()
        # a symmetric gain leaves the map real, and half of the spectrum says it all
        gain = self.gain(rows, columns[: width // 2 + 1])
        return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=(height, width)).abs()

    def low_gain(self, side: int, like: Tensor) -> Tensor:
        """g along one axis, (side,) in the order of fft2, with the type and device of `like`."""
        offset = 1 if self.center == "released" and side % 2 == 0 else 0
        bins = torch.arange(side, dtype=like.dtype, device=like.device)
        frequency = (bins + side // 2) % side - side // 2 + offset  # fftfreq, which ONNX does not have
        width = self.cutoff * side if self.cutoff_unit == "cycles_per_pixel" else self.cutoff
        return torch.exp(frequency.square() / (-2 * width**2))

    def gain(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The gain over both axes, (h, w'), from the low one of each: a Gaussian is a product."""
        low = rows[:, None] * columns
        return low if self.band == "low" else 1 - low


class FrequencyAttention(nn.Module):
    """out = project(x (1 + a)), a = sigmoid(W mean_hw(r)), r from the band filter; W is C -> C, without bias.

    State-dict keys are those of TriKD's code: `conv_atten.weight` is W, `conv` the projection.

    Args:
        skip: False: project(x a), an ablation of the original.
        norm: the projection is a 1x1 convolution, batch norm and ReLU, an ablation too; else a 1x1 convolution alone.

    Shapes:
        x: (B, in_channels, h, w) -> (B, out_channels, h, w).
    """

    def __init__(
        self, in_channels: int, out_channels: int, band_filter: BandFilter, skip: bool = True, norm: bool = False
    ):
        super().__init__()
        self.skip = skip
        self.band_filter = band_filter
        self.conv_atten = nn.Conv2d(in_channels, in_channels, 1, bias=False)
        self.conv = (
            ConvBNReLU(in_channels, out_channels, 1) if norm else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        strength = self.band_filter(x).mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        attention = torch.sigmoid(self.conv_atten(strength.to(x.dtype)))
        # x + x a as one product: a map less to write and to keep for backward
        return self.conv(x * (1 + attention if self.skip else attention))


class FrequencySqueeze(nn.Module):
    """out = x a, a = sigmoid(W2 relu(W1 mean_hw(r))), r from the band filter: squeeze and excitation on a band.

    An ablation of TriKD's code, whose state-dict keys it has: `fc.0.weight` is W1, `fc.2.weight` W2; no bias.

    Args:
        channels: C.
        band_filter: makes r of x.
        reduction: W1 is C -> C // reduction.

    Shapes:
        x: (B, C, h, w) -> (B, C, h, w).
    """

    def __init__(self, channels: int, band_filter: BandFilter, reduction: int = 16):
        super().__init__()
        assert 1 <= reduction <= channels, (reduction, channels)
        self.band_filter = band_filter
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        strength = self.band_filter(x).mean(dim=(2, 3))  # (B, C)
        return x * self.fc(strength.to(x.dtype))[..., None, None]
