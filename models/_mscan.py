"""MSCAN, SegNeXt's encoder: convolutions of long thin kernels make weights by which a map is multiplied.

Guo et al., SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, NeurIPS 2022,
arXiv 2209.08575.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ._encoder import Encoder
from ._mit import init_transformer
from ._tokens import to_map, to_tokens

MSCANName = Literal["mscan_t", "mscan_s", "mscan_b", "mscan_l"]

WIDE = (64, 128, 320, 512)
# name -> channels and number of blocks of the four stages
SIZES = {
    "mscan_t": ((32, 64, 160, 256), (3, 3, 5, 2)),
    "mscan_s": (WIDE, (2, 2, 4, 2)),
    "mscan_b": (WIDE, (3, 3, 12, 3)),
    "mscan_l": (WIDE, (3, 5, 27, 3)),
}
EXPANSIONS = (8, 8, 4, 4)  # of each stage's MLPs
STRIPS = (7, 11, 21)  # lengths of the thin kernels
SCALE_START = 0.01  # of what a block adds


def depthwise(channels: int, height: int, width: int) -> nn.Conv2d:
    """A depthwise convolution that keeps the size."""
    return nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels)


class ConvolvedWeights(nn.Module):
    """x * mix(a + sum_k column_k(row_k(a))), a = depthwise 5x5 of x, k = 7, 11, 21; mix is a 1x1."""

    def __init__(self, channels: int):
        super().__init__()
        self.local = depthwise(channels, 5, 5)
        self.strips = nn.ModuleList(
            nn.Sequential(depthwise(channels, 1, length), depthwise(channels, length, 1)) for length in STRIPS
        )
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        local = self.local(x)
        return x * self.mix(sum((strip(local) for strip in self.strips), start=local))


class ConvolvedAttention(nn.Module):
    """x + project_out(weigh(GELU(project_in(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.weigh = ConvolvedWeights(channels)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project_out(self.weigh(F.gelu(self.project_in(x))))


class ConvolvedMLP(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, GELU, 1x1 back."""

    def __init__(self, channels: int, expansion: int):
        super().__init__()
        inner = expansion * channels
        self.expand = nn.Conv2d(channels, inner, 1)
        self.depthwise = depthwise(inner, 3, 3)
        self.project = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.gelu(self.depthwise(self.expand(x))))


class Block(nn.Module):
    """x + scale1 * attention(norm(x)), then + scale2 * MLP(norm(x)); in training each summand is dropped at times."""

    def __init__(self, channels: int, expansion: int, drop_path: float):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.attention = ConvolvedAttention(channels)
        self.mlp = ConvolvedMLP(channels, expansion)
        self.scale1 = nn.Parameter(torch.full((channels,), SCALE_START))
        self.scale2 = nn.Parameter(torch.full((channels,), SCALE_START))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale1[:, None, None] * self.attention(self.norm1(x)))
        return x + self.drop_path(self.scale2[:, None, None] * self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Strided convolution, blocks and a layer norm over the channels of each pixel."""

    def __init__(self, embed: nn.Sequential, blocks: list[Block], channels: int):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return to_map(self.norm(to_tokens(x)), tuple(x.shape[-2:]))


class MSCAN(Encoder):
    """The encoder as a backbone: normalised images -> stage1..stage4 at strides 4, 8, 16, 32, after their norms.

    Args:
        name: see SIZES.
        drop_path: see models/_network.py.
    """

    dropped = ("head.",)

    def __init__(self, name: MSCANName, drop_path: float):
        super().__init__()
        widths, depths = SIZES[name]
        self.channels = {f"stage{i + 1}": width for i, width in enumerate(widths)}
        self.strides = {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}
        rates = iter(drop_path * i / (sum(depths) - 1) for i in range(sum(depths)))
        stages = []
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            embed = (
                halving(widths[i - 1], width)
                if i
                else [*halving(3, width // 2), nn.GELU(), *halving(width // 2, width)]
            )
            blocks = [Block(width, EXPANSIONS[i], next(rates)) for _ in range(depth)]
            stages.append(Stage(nn.Sequential(*embed), blocks, width))
        self.stages = nn.ModuleList(stages)
        init_transformer(self)

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = {}
        for name, stage in zip(self.channels, self.stages, strict=True):
            found[name] = x = stage(x)
        return found


def halving(in_channels: int, out_channels: int) -> list[nn.Module]:
    """3x3 convolution of stride 2 and batch norm."""
    return [nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), nn.BatchNorm2d(out_channels)]
