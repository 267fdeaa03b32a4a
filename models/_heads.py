"""The parts segmentation heads are made of: pyramids of context, the auxiliary head, initial weights.

Every part takes x, (B, in_channels, h, w), and gives a map of that size with as many channels as it is told:
`out_channels`, `width` or `num_classes`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._network import Network
from ._prediction import resize

DropoutKind = Literal["channels", "elements"]
HeadInit = Literal["kaiming", "fan_in", "torch"]
Projection = Literal["3x3", "1x1"]

# output stride -> dilations of ASPP's three 3x3: the same reach in the image at 8 and 16. No paper has 32: halved
# again the rates would be plain 3x3 neighbourhoods of a small map, so those of 16 stay
ASPP_RATES = {8: (12, 24, 36), 14: (6, 12, 18), 16: (6, 12, 18), 32: (6, 12, 18)}
BINS = (1, 2, 3, 6)  # grids of a pyramid of averages


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU; keeps the size at stride 1: padding = dilation * (kernel - 1) / 2."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
    ):
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def before_relu(self, x: Tensor) -> Tensor:
        """What the ReLU at the end reads."""
        return self.bn(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x), inplace=True)


class SeparableConv(nn.Module):
    """Depthwise 3x3 (dilated), then pointwise 1x1, batch norm and ReLU after both."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        super().__init__()
        self.depthwise = ConvBNReLU(in_channels, in_channels, 3, dilation=dilation, groups=in_channels)
        self.pointwise = ConvBNReLU(in_channels, out_channels, 1)

    def before_relu(self, x: Tensor) -> Tensor:
        """What the ReLU at the end reads."""
        return self.pointwise.before_relu(self.depthwise(x))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x), inplace=True)


def conv3x3(in_channels: int, out_channels: int, dilation: int = 1, separable: bool = False) -> nn.Module:
    """The 3x3 block of a head, whole or depthwise separable."""
    if separable:
        return SeparableConv(in_channels, out_channels, dilation)
    return ConvBNReLU(in_channels, out_channels, 3, dilation=dilation)


class PooledConv(nn.Module):
    """Average pool to bins x bins, 1x1 convolution, batch norm, ReLU, and back to the input's size."""

    def __init__(self, in_channels: int, out_channels: int, bins: int, align_corners: bool):
        super().__init__()
        self.bins = bins
        self.align_corners = align_corners
        self.conv = ConvBNReLU(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.bins == 1:
            refuse_single(x, self.conv.bn)
        pooled = self.conv(F.adaptive_avg_pool2d(x, self.bins))  # (B, out_channels, bins, bins)
        return spread(pooled, x.shape[-2:], self.align_corners)


def refuse_single(x: Tensor, bn: nn.Module) -> None:
    """ValueError where a batch norm behind the global pooling of x would have a single value per channel."""
    # synchronised batch norm counts the images of all processes and checks by itself
    if x.shape[0] == 1 and bn.training and not isinstance(bn, nn.SyncBatchNorm):
        raise ValueError(
            "batch of 1 in training: batch norm after the global pooling of this head needs 2 images or more "
            "per process; raise the batch size or use fewer processes"
        )


def spread(pooled: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bins back to the size of the map they are averages of, bilinearly: (B, C, bins, bins) -> (B, C, *size)."""
    if pooled.shape[-1] == 1:
        # bilinear from a single value is that value: the view costs no kernel, and its gradient is a plain sum
        return pooled.expand(-1, -1, *size)
    return resize(pooled, size, align_corners)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: image pool, 1x1 and three dilated 3x3 side by side, concatenated, projected.

    Args:
        width: channels of each branch and of the output.
        rates: dilations of the three 3x3 convolutions, in pixels of x.
        separable: the dilated 3x3 depthwise separable, as in DeepLabV3+.
        projection: `3x3` is mmsegmentation's, with the image pool first in the concatenation; `1x1` the paper's
            (torchvision, CIRKD, DIST, AICSD), with the image pool last.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        rates: tuple[int, int, int],
        align_corners: bool,
        separable: bool = False,
        projection: Projection = "3x3",
    ):
        super().__init__()
        self.image_pool = PooledConv(in_channels, width, 1, align_corners)
        branches = [ConvBNReLU(in_channels, width, 1)]
        branches += [conv3x3(in_channels, width, rate, separable) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.pool_is_last = projection == "1x1"
        self.project = ConvBNReLU(5 * width, width, 1 if projection == "1x1" else 3)

    def before_relu(self, x: Tensor) -> Tensor:
        """What the projection's ReLU reads."""
        maps = [branch(x) for branch in self.branches]
        maps.insert(len(maps) if self.pool_is_last else 0, self.image_pool(x))
        return self.project.before_relu(torch.cat(maps, dim=1))  # (B, 5 * width, h, w) -> (B, width, h, w)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x), inplace=True)


class PyramidPooling(nn.Module):
    """x beside its averages over grids of 1, 2, 3 and 6 bins, concatenated, projected by a 3x3.

    Args:
        width: channels of the output.
        level_width: channels of each level; None: `width`, as in mmsegmentation (the paper has in_channels / 4).
        level: what makes a level.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        align_corners: bool,
        bins: tuple[int, ...] = BINS,
        level_width: int | None = None,
        level: type[nn.Module] = PooledConv,
    ):
        super().__init__()
        level_width = level_width or width
        self.levels = nn.ModuleList([level(in_channels, level_width, count, align_corners) for count in bins])
        self.project = ConvBNReLU(in_channels + len(bins) * level_width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x] + [level(x) for level in self.levels]
        return self.project(torch.cat(maps, dim=1))  # (B, in_channels + 4 * level_width, h, w) -> (B, width, h, w)


def dropout_of(kind: DropoutKind, share: float) -> nn.Module:
    """Dropout of whole channels (mmsegmentation) or of single elements (torchvision, CIRKD, DIST)."""
    return nn.Dropout2d(share) if kind == "channels" else nn.Dropout(share)


class FCNHead(nn.Module):
    """The auxiliary head: 3x3 convolution, batch norm, ReLU, dropout, 1x1 classifier."""

    def __init__(
        self, in_channels: int, width: int, num_classes: int, dropout: float, dropout_kind: DropoutKind = "channels"
    ):
        super().__init__()
        self.conv = ConvBNReLU(in_channels, width, 3)
        self.dropout = dropout_of(dropout_kind, dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.conv(x)))


def add_classifiers(
    network: Network, width: int, aux_width: int | None, dropout: float, dropout_kind: DropoutKind, head_init: HeadInit
) -> None:
    """Ends a network: `dropout` and `classifier` of maps of `width` channels, an auxiliary head, initial weights.

    Args:
        aux_width: channels of the FCN head on stage3; None: without one.
        dropout, dropout_kind, head_init: see models/_network.py.
    """
    network.dropout = dropout_of(dropout_kind, dropout)
    network.classifier = nn.Conv2d(width, network.num_classes, 1)
    network.has_aux = aux_width is not None
    if network.has_aux:
        third = network.channels["stage3"]
        network.own_heads = {"aux": "aux_head"}
        network.aux_head = FCNHead(third, aux_width, network.num_classes, dropout, dropout_kind)
    init_heads(network, head_init)


def classify(network: Network, x: Tensor, found: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The maps found and what `add_classifiers` has added makes of x: `head`, `logits` and, if wanted, `aux`."""
    found["head"] = network.dropout(x)
    found["logits"] = network.classifier(found["head"])  # (B, K, h, w)
    if "aux" in wanted:
        found["aux"] = network.aux_head(found["stage3"])
    return found


def init_heads(network: nn.Module, rule: HeadInit = "kaiming") -> None:
    """Initial weights of everything but `network.backbone`.

    Args:
        rule: `kaiming` is mmsegmentation's: Kaiming normal (fan out), classifiers N(0, 0.01) with bias 0. A
            convolution with a bias is a classifier: all others are followed by batch norm. `fan_in` is AICSD's: Kaiming
            normal (fan in) for all, biases as torch makes them. `torch` (torchvision, CIRKD, DIST): as torch makes it.
    """
    parts = [part for name, part in network.named_children() if name != "backbone"]
    convolutions = [module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d)]
    for conv in convolutions if rule != "torch" else ():
        if rule == "fan_in":
            nn.init.kaiming_normal_(conv.weight)
        elif conv.bias is None:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
