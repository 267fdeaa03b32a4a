"""BiSeNetV2's encoder: a wide shallow branch for detail and a narrow deep one for meaning, each weighing the other.

Yu et al., BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation, IJCV 2021,
arXiv 2004.02147.
"""

import logging
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._encoder import Encoder
from ._heads import ConvBNReLU, refuse_single
from ._prediction import resize

logger = logging.getLogger(__name__)

DETAIL = ((64, 2), (64, 3), (128, 3))  # channels and convolutions of each stage, the first of stride 2
STEM, SEMANTIC = 16, ((32, 2), (64, 2), (128, 4))  # channels and blocks of each stage, the first of stride 2
EXPANSION = 6
WIDTH = 128  # of both branches where they meet

Arrangement = Literal["original", "mmseg"]


class Stem(nn.Module):
    """3x3 of stride 2; then a 1x1 and a 3x3 of stride 2 beside a max pool, fused by a 3x3: to stride 4."""

    def __init__(self):
        super().__init__()
        self.first = ConvBNReLU(3, STEM, 3, 2)
        self.left = nn.Sequential(ConvBNReLU(STEM, STEM // 2, 1), ConvBNReLU(STEM // 2, STEM, 3, 2))
        self.fuse = ConvBNReLU(2 * STEM, STEM, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.fuse(torch.cat([self.left(x), F.max_pool2d(x, 3, 2, 1)], dim=1))  # (B, 2 * STEM, h, w) in


class GatherExpand(nn.Module):
    """ReLU(x + project(depthwise(refine(x)))), in between at six times the channels.

    At stride 2 there are two depthwise 3x3, and x goes through two convolutions, too. The last batch norm starts with
    scale 0: at first the block is the identity, or its shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        inner = EXPANSION * in_channels
        self.refine = ConvBNReLU(in_channels, in_channels, 3)
        self.depthwise = nn.ModuleList([ConvBNReLU(in_channels, inner, 3, stride, groups=in_channels)])
        self.project = ConvBNReLU(inner, out_channels, 1)
        self.shortcut = None
        if stride == 2:
            self.depthwise.append(ConvBNReLU(inner, inner, 3, groups=inner))
            first = ConvBNReLU(in_channels, in_channels, 3, 2, groups=in_channels)
            self.shortcut = nn.ModuleList([first, ConvBNReLU(in_channels, out_channels, 1)])
        nn.init.zeros_(self.project.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.refine(x)
        for layer in self.depthwise[:-1]:
            inner = layer.before_relu(inner)
        inner = self.project.before_relu(self.depthwise[-1](inner))
        for layer in self.shortcut or ():
            x = layer.before_relu(x)
        return F.relu(x + inner)


class Context(nn.Module):
    """last(x + widen(BN(global mean of x)))."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.widen = ConvBNReLU(channels, channels, 1)
        self.last = ConvBNReLU(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        refuse_single(x, self.bn)
        return self.last(x + self.widen(self.bn(x.mean((2, 3), keepdim=True))))


class Aggregation(nn.Module):
    """project(detail * sigmoid(up(semantic)) + up(detail at stride 32 * sigmoid(semantic))).

    Each map goes through convolutions of its own first. `up` repeats each pixel four times in both directions as
    published, mmsegmentation's is bilinear.
    """

    def __init__(self, arrangement: Arrangement):
        super().__init__()
        self.bilinear = has_bias = arrangement == "mmseg"
        self.detail_depthwise = ConvBNReLU(WIDTH, WIDTH, 3, groups=WIDTH)
        self.detail_pointwise = nn.Conv2d(WIDTH, WIDTH, 1, bias=has_bias)
        self.detail_down = ConvBNReLU(WIDTH, WIDTH, 3, 2)
        self.semantic_conv = ConvBNReLU(WIDTH, WIDTH, 3)
        self.semantic_depthwise = ConvBNReLU(WIDTH, WIDTH, 3, groups=WIDTH)
        self.semantic_pointwise = nn.Conv2d(WIDTH, WIDTH, 1, bias=has_bias)
        self.project = ConvBNReLU(WIDTH, WIDTH, 3)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        size = detail.shape[-2:]
        fine = self.detail_pointwise(self.detail_depthwise.before_relu(detail))
        coarse = F.avg_pool2d(self.detail_down.before_relu(detail), 3, 2, 1)  # (B, C, H / 32, W / 32)
        fine = fine * torch.sigmoid(self.enlarged(self.semantic_conv.before_relu(semantic), size))
        coarse = coarse * torch.sigmoid(self.semantic_pointwise(self.semantic_depthwise.before_relu(semantic)))
        return self.project(fine + self.enlarged(coarse, size))

    def enlarged(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, H / 32, W / 32) at the size of the detail, which may be less than four times that."""
        if self.bilinear:
            return resize(x, size, align_corners=False)
        return F.interpolate(x, scale_factor=4.0, mode="nearest")[..., : size[0], : size[1]]


class TwoBranches(Encoder):
    """Both branches and their aggregation, as models/bisenetv2.py:BiSeNetV2 lists their maps."""

    def __init__(self, arrangement: Arrangement):
        super().__init__()
        detail, before = [], 3
        for channels, count in DETAIL:
            inputs = [before] + [channels] * (count - 1)
            layers = [ConvBNReLU(width, channels, 3, 1 if i else 2) for i, width in enumerate(inputs)]
            detail.append(nn.Sequential(*layers))
            before = channels
        self.detail = nn.Sequential(*detail)
        self.stem, before, stages = Stem(), STEM, []
        for channels, count in SEMANTIC:
            blocks = [GatherExpand(channels if i else before, channels, 1 if i else 2) for i in range(count)]
            stages.append(nn.Sequential(*blocks))
            before = channels
        self.stages = nn.ModuleList(stages)
        self.context = Context(WIDTH)
        self.aggregation = Aggregation(arrangement)
        self.channels = {"stage1": STEM} | {f"stage{i + 2}": width for i, (width, _) in enumerate(SEMANTIC)}
        self.channels |= dict.fromkeys(("detail", "context", "fused"), WIDTH)
        self.strides = {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32, "detail": 8, "context": 32, "fused": 8}
        init_kaiming(self)

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A file of our names, with the random weights of the aggregation where it has the branches alone."""
        if "stem.first.conv.weight" not in state or "aggregation.project.conv.weight" in state:
            return dict(state)
        logger.warning("no ImageNet weights for the aggregation of both branches, which starts at random")
        return state | {key: value for key, value in self.state_dict().items() if key.startswith("aggregation.")}

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = {"detail": self.detail(x), "stage1": self.stem(x)}
        for i, stage in enumerate(self.stages, start=1):
            found[f"stage{i + 1}"] = stage(found[f"stage{i}"])
        found["context"] = self.context(found["stage4"])
        found["fused"] = self.aggregation(found["detail"], found["context"])
        return found


def init_kaiming(module: nn.Module) -> None:
    """Initial weights as published: every convolution's Kaiming normal (fan out), biases 0."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
