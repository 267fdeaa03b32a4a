"""Mix Transformer, SegFormer's encoder: four stages of overlapping patches, reduced attention and convolving MLPs.

Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, NeurIPS 2021,
arXiv 2105.15203. Tokens are kept as (B, N, C) with N = h * w in raster order, so that the map of them is a
channels-last view and no step copies only to reorder.
"""

import math
from typing import Literal

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ._encoder import Encoder
from ._tokens import to_map, to_tokens

MiTName = Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"]

NARROW, WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
# name -> channels and number of blocks of the four stages
SIZES = {
    "mit_b0": (NARROW, (2, 2, 2, 2)),
    "mit_b1": (WIDE, (2, 2, 2, 2)),
    "mit_b2": (WIDE, (3, 4, 6, 3)),
    "mit_b3": (WIDE, (3, 4, 18, 3)),
    "mit_b4": (WIDE, (3, 8, 27, 3)),
    "mit_b5": (WIDE, (3, 6, 40, 3)),
}
HEADS = (1, 2, 5, 8)
# keys and values are taken from a map this many times smaller in height and width
REDUCTIONS = (8, 4, 2, 1)


class PatchEmbedding(nn.Module):
    """Strided convolution whose windows overlap, then layer norm.

    Shapes:
        x: (B, in_channels, H, W). returns: tokens (B, h * w, out_channels) and (h, w), h = ceil(H / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, eps: float):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(out_channels, eps=eps)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.conv(x)
        return self.norm(to_tokens(x)), tuple(x.shape[-2:])


class ReducedAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V, with K and V from a map that a strided convolution made `reduction` times smaller.

    Shapes:
        tokens: (B, h * w, channels) -> the same.

    Raises:
        ValueError: a map smaller than one window of the reduction.
    """

    def __init__(self, channels: int, heads: int, reduction: int, eps: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(channels, eps=eps)
        self.reduction = reduction

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        source = tokens
        if self.reduction > 1:
            if min(size) < self.reduction:
                raise ValueError(
                    f"attention reduces its map {self.reduction} times, but the map is only {size[0]} x {size[1]}; "
                    "give images of 32 x 32 pixels or more"
                )
            source = self.reduce_norm(to_tokens(self.reduce(to_map(tokens, size))))  # (B, M, C)
        query = self.query(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, d)
        # (B, M, 2C) -> two of (B, heads, M, d)
        key, value = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value)
        return self.project(found.transpose(1, 2).flatten(2))  # (B, heads, N, d) -> (B, N, C)


class MixMLP(nn.Module):
    """Linear to four times the channels, depthwise 3x3 (it tells tokens where they are), GELU, linear back."""

    def __init__(self, channels: int):
        super().__init__()
        inner = 4 * channels
        self.expand = nn.Linear(channels, inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Linear(inner, channels)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        inner = to_tokens(self.depthwise(to_map(self.expand(tokens), size)))  # (B, N, 4C)
        return self.project(F.gelu(inner))


class Block(nn.Module):
    """x + attention(norm(x)), then + MLP(norm(x)); in training each summand of an image is dropped at times."""

    def __init__(
        self, channels: int, heads: int, reduction: int, drop_path: float, norm_eps: float, reduction_eps: float
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=norm_eps)
        self.attention = ReducedAttention(channels, heads, reduction, reduction_eps)
        self.norm2 = nn.LayerNorm(channels, eps=norm_eps)
        self.mlp = MixMLP(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens), size))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens), size))


class Stage(nn.Module):
    """Patch embedding, blocks and a last layer norm.

    Shapes:
        x: (B, in_channels, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, embed: PatchEmbedding, blocks: list[Block], norm: nn.LayerNorm):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        tokens, size = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens, size)
        return to_map(self.norm(tokens), size)


class MiT(Encoder):
    """The encoder as a backbone: normalised images -> stage1..stage4 at strides 4, 8, 16, 32, after their norms.

    Args:
        name: see SIZES.
        drop_path: see models/_network.py.
        norm_eps: of the layer norms of blocks and stages.
        reduction_eps: of those after a convolution, in patch embeddings and reductions.
    """

    dropped = ("head.",)

    def __init__(self, name: MiTName, drop_path: float = 0.1, norm_eps: float = 1e-6, reduction_eps: float = 1e-5):
        super().__init__()
        widths, depths = SIZES[name]
        self.hub_file = (f"nvidia/{name.replace('_', '-')}", "pytorch_model.bin")
        self.channels = {f"stage{i + 1}": width for i, width in enumerate(widths)}
        self.strides = {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}
        rates = iter(drop_path * i / (sum(depths) - 1) for i in range(sum(depths)))
        stages = []
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            kernel_size, stride, before = (3, 2, widths[i - 1]) if i else (7, 4, 3)
            embed = PatchEmbedding(before, width, kernel_size, stride, reduction_eps)
            blocks = [Block(width, HEADS[i], REDUCTIONS[i], next(rates), norm_eps, reduction_eps) for _ in range(depth)]
            stages.append(Stage(embed, blocks, nn.LayerNorm(width, eps=norm_eps)))
        self.stages = nn.ModuleList(stages)
        init_transformer(self)

    def forward(self, x: Tensor, wanted: set[str] = frozenset()) -> dict[str, Tensor]:
        found = {}
        for name, stage in zip(self.channels, self.stages, strict=True):
            found[name] = x = stage(x)
        return found


def init_transformer(module: nn.Module) -> None:
    """Initial weights as published: linear N(0, 0.02) cut off, convolutions N(0, sqrt(2 / fan out)), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
        elif isinstance(part, nn.Conv2d):
            fan_out = part.out_channels * math.prod(part.kernel_size) // part.groups
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
        if isinstance(part, (nn.Linear, nn.Conv2d)) and part.bias is not None:
            nn.init.zeros_(part.bias)
