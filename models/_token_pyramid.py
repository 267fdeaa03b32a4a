"""TopFormer's encoder: a pyramid of levels, and a transformer on tokens pooled from all of them.

Zhang et al., TopFormer: Token Pyramid Transformer for Mobile Semantic Segmentation, CVPR 2022, arXiv 2204.05525.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ._encoder import Encoder
from ._heads import ConvBNReLU
from ._mit import init_transformer

TopFormerName = Literal["topformer_t", "topformer_b"]

STEM = 16
# name -> kernel, expansion, channels and stride of each inverted residual
PYRAMIDS = {
    "topformer_t": ((3, 1, 16, 1), (3, 4, 16, 2), (3, 3, 16, 1), (5, 3, 32, 2), (5, 3, 32, 1), (3, 3, 64, 2),
                    (3, 3, 64, 1), (5, 6, 96, 2), (5, 6, 96, 1)),
    "topformer_b": ((3, 1, 16, 1), (3, 4, 32, 2), (3, 3, 32, 1), (5, 3, 64, 2), (5, 3, 64, 1), (3, 3, 128, 2),
                    (3, 3, 128, 1), (5, 6, 160, 2), (5, 6, 160, 1), (3, 6, 160, 1)),
}  # fmt: skip
HEADS = {"topformer_t": 4, "topformer_b": 8}  # of the attention
BLOCKS, KEY_WIDTH, VALUE_WIDTH, EXPANSION = 4, 16, 32, 2


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; x + that where size and channels stay."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        inner = expansion * in_channels
        self.expand = ConvBNReLU(in_channels, inner, 1) if expansion > 1 else None
        self.depthwise = ConvBNReLU(inner, inner, kernel_size, stride, groups=inner)
        self.project = ConvBNReLU(inner, out_channels, 1)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else self.expand(x)
        inner = self.project.before_relu(self.depthwise(inner))
        return x + inner if self.adds else inner


class TokenAttention(nn.Module):
    """project(ReLU6(softmax(Q K^T) V)), all linear maps 1x1 convolutions with batch norm; no scale by the width.

    Shapes:
        x: (B, channels, h, w) -> the same.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key = (ConvBNReLU(channels, heads * KEY_WIDTH, 1) for _ in range(2))
        self.value = ConvBNReLU(channels, heads * VALUE_WIDTH, 1)
        self.project = ConvBNReLU(heads * VALUE_WIDTH, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        # (B, heads * d, h, w) -> (B, heads, h * w, d)
        query, key, value = (layer.before_relu(x).unflatten(1, (self.heads, -1)).flatten(3).mT for layer in layers)
        found = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        found = found.mT.flatten(1, 2).unflatten(2, x.shape[-2:])  # (B, heads * d, h, w)
        return self.project.before_relu(F.relu6(found))


class TokenMLP(nn.Module):
    """1x1 to twice the channels, depthwise 3x3, ReLU6, 1x1 back; batch norm after both 1x1."""

    def __init__(self, channels: int):
        super().__init__()
        inner = EXPANSION * channels
        self.expand = ConvBNReLU(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = ConvBNReLU(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project.before_relu(F.relu6(self.depthwise(self.expand.before_relu(x))))


class Block(nn.Module):
    """x + attention(x), then + MLP(x); in training each summand of an image is dropped at times."""

    def __init__(self, channels: int, heads: int, drop_path: float):
        super().__init__()
        self.attention, self.mlp = TokenAttention(channels, heads), TokenMLP(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(x))
        return x + self.drop_path(self.mlp(x))


class TokenPyramid(Encoder):
    """The levels and their tokens, as TopFormer lists them: what is trained on ImageNet.

    Args:
        name: see PYRAMIDS.
        drop_path: see models/_network.py.
    """

    def __init__(self, name: TopFormerName, drop_path: float):
        super().__init__()
        self.stem = ConvBNReLU(3, STEM, 3, 2)
        blocks, before, stride, ends = [], STEM, 2, {}
        for index, (kernel_size, expansion, channels, step) in enumerate(PYRAMIDS[name]):
            blocks.append(InvertedResidual(before, channels, kernel_size, step, expansion))
            before, stride = channels, stride * step
            ends[stride] = index  # the last block at each stride
        self.blocks = nn.ModuleList(blocks)
        self.levels = {ends[2 ** (i + 1)]: f"stage{i}" for i in (1, 2, 3, 4)}
        self.channels = {level: PYRAMIDS[name][index][2] for index, level in self.levels.items()}
        self.strides = {level: 2 ** (i + 2) for i, level in enumerate(self.channels)}
        total = sum(self.channels.values())
        self.channels |= {"pooled": total, "tokens": total}
        self.strides |= {"pooled": 64, "tokens": 64}
        rates = (drop_path * i / (BLOCKS - 1) for i in range(BLOCKS))
        self.transformer = nn.ModuleList([Block(total, HEADS[name], rate) for rate in rates])
        init_transformer(self)

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found, x = {}, self.stem(x)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.levels:
                found[self.levels[index]] = x
        size = [(side + 1) // 2 for side in x.shape[-2:]]
        found["pooled"] = x = torch.cat([F.adaptive_avg_pool2d(level, size) for level in found.values()], dim=1)
        for block in self.transformer:
            x = block(x)
        return found | {"tokens": x}
