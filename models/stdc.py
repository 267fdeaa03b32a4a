"""STDC1-Seg and STDC2-Seg: short-term dense concatenation and a path of context, fused at stride 8."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval, MultipleOf
from torch import Tensor, nn

from ._dual_resolution import ConvBN
from ._encoder import Encoder
from ._heads import ConvBNReLU, refuse_single
from ._network import Network

BLOCKS = {1: (2, 2, 2), 2: (4, 5, 3)}  # of the stages at strides 8, 16, 32


class _DenseBlock(nn.Module):
    """Four convolutions one behind the other, of half, a quarter and twice an eighth of the channels, concatenated.

    At stride 2 a depthwise 3x3 without ReLU follows the first, whose own map is averaged.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        widths = [out_channels // part for part in (2, 4, 8, 8)]
        self.convs = nn.ModuleList([ConvBNReLU(in_channels, widths[0], 1)])
        self.convs.extend(ConvBNReLU(before, width, 3) for before, width in zip(widths, widths[1:]))
        self.down = ConvBNReLU(widths[0], widths[0], 3, 2, groups=widths[0]) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.convs[0](x)]
        x = maps[0]
        if self.down is not None:
            x = self.down.before_relu(x)
            maps[0] = F.avg_pool2d(maps[0], 3, 2, 1)
        for conv in self.convs[1:]:
            x = conv(x)
            maps.append(x)
        return torch.cat(maps, dim=1)


class _STDCEncoder(Encoder):
    """stage1..stage4 of 1, 4, 8 and 16 times `width` channels at strides 4, 8, 16, 32."""

    def __init__(self, variant: int, width: int):
        super().__init__()
        self.stem = nn.ModuleList([ConvBNReLU(3, width // 2, 3, 2), ConvBNReLU(width // 2, width, 3, 2)])
        stages, channels = [], width
        for number, count in enumerate(BLOCKS[variant]):
            out = 4 * width * 2**number
            blocks = [_DenseBlock(channels if i == 0 else out, out, 2 if i == 0 else 1) for i in range(count)]
            stages.append(nn.Sequential(*blocks))
            channels = out
        self.stages = nn.ModuleList(stages)
        self.channels = {"stage1": width, "stage2": 4 * width, "stage3": 8 * width, "stage4": 16 * width}
        self.strides = {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        for conv in self.stem:
            x = conv(x)
        found = {"stage1": x}
        for number, stage in enumerate(self.stages, start=2):
            x = found[f"stage{number}"] = stage(x)
        return found


class _AttentionRefinement(nn.Module):
    """A 3x3, each of whose channels is weighed by a gate made of all their means."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.conv = ConvBNReLU(in_channels, width, 3)
        self.gate = ConvBN(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        refuse_single(x, self.gate.bn)
        x = self.conv(x)
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class _FeatureFusion(nn.Module):
    """x = 1x1 of both maps; x + x g, g a gate made of x's means by two 1x1."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.conv = ConvBNReLU(in_channels, width, 1)
        self.reduce = nn.Conv2d(width, width // 4, 1, bias=False)
        self.expand = nn.Conv2d(width // 4, width, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        x = self.conv(torch.cat([detail, context], dim=1))
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()  # (B, width, 1, 1)
        return x + x * gate


class _Head(nn.Module):
    """3x3, batch norm, ReLU, 1x1 classifier."""

    def __init__(self, in_channels: int, width: int, out_channels: int, bias: bool):
        super().__init__()
        self.conv = ConvBNReLU(in_channels, width, 3)
        self.classifier = nn.Conv2d(width, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(x))


class STDC(Network):
    """logits = classifier(head(fusion(stage2, context8))) at stride 8; heads for training make maps that losses read.

    Fan et al., Rethinking BiSeNet For Real-time Semantic Segmentation, CVPR 2021, arXiv 2104.13188.

    Args:
        variant: STDC1 or STDC2.
        width: channels at stride 4, of which all others are multiples.
        aux: with three heads for training, each of which runs and learns where a loss reads its map: of scores on
            context8 and context16, and of details on stage2.
        classifier_bias: a bias on the classifiers, which mmsegmentation's have.
        detail_channels: of the head of details: 1, or mmsegmentation's 2.
        num_classes, align_corners (of the scores; inside, pixels are repeated), backbone_weights: see
            models/_network.py; the authors' ImageNet file fits.

    Features:
        `stage1`..`stage4` at strides 4, 8, 16, 32; `context16`, `context8`: the path of context at strides 16 and 8;
        `fused`: it and stage2; `head`: what the classifier reads; with aux, as the authors call their maps after what
        was enlarged to make them: `aux16`, scores made of context8; `aux32`, of context16; `detail`, of stage2.
    """

    # the path of context learns at the encoder's rate, too
    backbone_prefixes = ("backbone.", "pooled.", "arm32.", "arm16.", "refine32.", "refine16.")

    def __init__(
        self,
        num_classes: int,
        *,
        variant: Literal[1, 2] = 1,
        width: Annotated[int, Interval(ge=2, le=1024), MultipleOf(2)] = 64,
        aux: bool = True,
        classifier_bias: bool = False,
        detail_channels: Literal[1, 2] = 1,
        align_corners: bool = True,
        backbone_weights: str | None = None,
    ):
        encoder = _STDCEncoder(variant, width)
        super().__init__(num_classes, encoder, False, backbone_weights, align_corners=align_corners)
        context = 2 * width
        self.pooled = ConvBNReLU(16 * width, context, 1)
        self.arm32 = _AttentionRefinement(16 * width, context)
        self.arm16 = _AttentionRefinement(8 * width, context)
        self.refine32 = ConvBNReLU(context, context, 3)
        self.refine16 = ConvBNReLU(context, context, 3)
        self.fusion = _FeatureFusion(4 * width + context, 4 * width)
        self.head = ConvBNReLU(4 * width, 4 * width, 3)
        self.classifier = nn.Conv2d(4 * width, num_classes, 1, bias=classifier_bias)
        self.add_features(("context16",), context, 16)
        self.add_features(("context8",), context, 8)
        self.add_features(("fused", "head"), 4 * width, 8)
        self.aux_heads = nn.ModuleDict()
        if aux:
            for name, channels, out_channels, stride in (
                ("aux16", context, num_classes, 8),
                ("aux32", context, num_classes, 16),
                ("detail", 4 * width, detail_channels, 8),
            ):
                self.aux_heads[name] = _Head(channels, width, out_channels, classifier_bias)
                self.add_features((name,), out_channels, stride)
            self.own_heads = {name: f"aux_heads.{name}" for name in self.aux_heads}
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.startswith("backbone."):
                nn.init.kaiming_normal_(module.weight, a=1)

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        stage2, stage3, stage4 = (found[f"stage{number}"] for number in (2, 3, 4))
        refuse_single(stage4, self.pooled.bn)
        context = self.arm32(stage4) + self.pooled(stage4.mean((2, 3), keepdim=True))
        found["context16"] = self.refine32(repeat(context, stage3))
        context = self.arm16(stage3) + found["context16"]
        found["context8"] = self.refine16(repeat(context, stage2))
        found["fused"] = self.fusion(stage2, found["context8"])
        found["head"] = self.head(found["fused"])
        found["logits"] = self.classifier(found["head"])  # (B, K, h, w)
        for name, source in (("aux16", "context8"), ("aux32", "context16"), ("detail", "stage2")):
            if name in wanted:
                found[name] = self.aux_heads[name](found[source])
        return found


def repeat(x: Tensor, like: Tensor) -> Tensor:
    """x at the height and width of another map, its pixels repeated."""
    return F.interpolate(x, like.shape[-2:], mode="nearest")
