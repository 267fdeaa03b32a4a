"""TriKD's decoder over four maps of any sizes, and its neck, which makes a pyramid of a plain ViT's blocks.

A UPer head (Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221) with
frequency attention for lateral convolutions (Li et al., Triple-View Knowledge Distillation for Semi-Supervised Semantic
Segmentation, IEEE TMM 28, 2026, arXiv 2309.12557). State-dict keys are those of TriKD's code, resizes align corners.
"""

import torch
from torch import Tensor, nn

from ._frequency import BandFilter, Center, CutoffUnit, FrequencyAttention
from ._heads import BINS, ConvBNReLU, refuse_single, spread
from ._network import Count
from ._prediction import resize

Widths = tuple[Count, Count, Count, Count]


class TriKDPyramid(nn.Module):
    """x beside its averages over grids of 1, 2, 3 and 6 bins.

    Each average goes through a 1x1 convolution, batch norm and ReLU, and back to the size of x.

    Shapes:
        x: (B, in_channels, h, w) -> (B, in_channels + 4 * width, h, w).
    """

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(count),
                nn.Conv2d(in_channels, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
            for count in BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for level in self.features:
            pool, _, bn, _ = level
            if pool.output_size == 1:
                refuse_single(x, bn)
            maps.append(spread(level(x), x.shape[-2:], align_corners=True))  # (B, width, h, w)
        return torch.cat(maps, dim=1)


class TriKDDecoder(nn.Module):
    """Class scores from four maps, shallow to deep: pyramid pooling on the last, top-down sums, all levels fused.

        L_3 = CBR3(pooled levels of f_3); L_i = attention_i(f_i) + down_i(L_(i+1)) for i = 2, 1, 0
        logits = classifier(dropout(CBR3(concat(CBR3(L_0), CBR3(L_1), CBR3(L_2), L_3))))

    CBR3: 3x3 convolution, batch norm, ReLU. The attention reads the high band at levels 0 and 1 and the low one at 2.
    Sums are taken at the size of the shallower map, the concatenation at that of f_0.

    Args:
        in_channels: channels of f_0..f_3. widths: of L_0..L_3.
        bottleneck: channels the classifier reads.
        dropout: share of whole channels dropped before the classifier.
        cutoff, cutoff_unit, center: see models/_network.py; the defaults are the released code's.

    Shapes:
        features: four maps (B, in_channels[i], h_i, w_i). returns: logits (B, K, h_0, w_0), and what the classifier
        reads, (B, bottleneck, h_0, w_0).
    """

    def __init__(
        self,
        in_channels: Widths,
        widths: Widths,
        num_classes: int,
        *,
        bottleneck: int = 256,
        dropout: float = 0.1,
        cutoff: float = 10.0,
        cutoff_unit: CutoffUnit = "cycles_per_map",
        center: Center = "released",
    ):
        super().__init__()
        self.width = bottleneck
        self.psp_module = TriKDPyramid(in_channels[3], widths[3])
        self.psp_bottleneck = ConvBNReLU(in_channels[3] + 4 * widths[3], widths[3], 3)
        self.lateral_convs = nn.ModuleList(
            FrequencyAttention(channels, width, BandFilter(band, cutoff, cutoff_unit, center))
            for channels, width, band in zip(in_channels[:3], widths[:3], ("high", "high", "low"), strict=True)
        )
        self.fpn_convs = nn.ModuleList(ConvBNReLU(width, width, 3) for width in widths[:3])
        # down_convs.i brings level i + 1 to the width of level i
        self.down_convs = nn.ModuleList(
            nn.Conv2d(deep, shallow, 1) for shallow, deep in zip(widths[:3], widths[1:], strict=True)
        )
        self.fpn_bottleneck = ConvBNReLU(sum(widths), bottleneck, 3)
        self.cls_seg = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(bottleneck, num_classes, 1))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        level = self.psp_bottleneck(self.psp_module(features[3]))
        size = features[0].shape[-2:]
        maps = [resize(level, size, align_corners=True)]
        for i in (2, 1, 0):
            above = resize(self.down_convs[i](level), features[i].shape[-2:], align_corners=True)
            level = self.lateral_convs[i](features[i]) + above  # (B, widths[i], h_i, w_i)
            maps.append(resize(self.fpn_convs[i](level), size, align_corners=True))
        fused = self.fpn_bottleneck(torch.cat(maps[::-1], dim=1))  # (B, sum(widths), h_0, w_0) -> (B, bottleneck, ...)
        dropout, classifier = self.cls_seg
        head = dropout(fused)
        return classifier(head), head


class TriKDNeck(nn.Module):
    """Maps of one size to a pyramid: per level a 1x1, a resize by its scale and a 3x3; batch norm and ReLU after both.

    TriKD's neck between a ViT's blocks 2, 5, 8, 11 and the decoder. The released scales give the deepest block the
    largest map: logits leave the decoder at the size of the smallest, and pyramid pooling runs on the largest.
    (4, 2, 1, 0.5) is the pyramid the right way up.

    Args:
        in_channels: of every map. out_channels: of every level.
        scales: factor of height and width per level; sizes are rounded down, to 1 at least.

    Shapes:
        features: len(scales) maps (B, in_channels, h, w) -> list of (B, out_channels, scale * h, scale * w).
    """

    def __init__(self, in_channels: int, out_channels: int, scales: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)):
        super().__init__()
        self.scales = tuple(scales)
        self.lateral_convs = nn.ModuleList(ConvBNReLU(in_channels, out_channels, 1) for _ in scales)
        self.convs = nn.ModuleList(ConvBNReLU(out_channels, out_channels, 3) for _ in scales)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = []
        for x, scale, lateral, conv in zip(features, self.scales, self.lateral_convs, self.convs, strict=True):
            height, width = (max(1, int(side * scale)) for side in x.shape[-2:])
            levels.append(conv(resize(lateral(x), (height, width), align_corners=True)))
        return levels
