"""UPerNet's head, also TSIC's: pyramid pooling on the deepest of four maps, a feature pyramid over all, one fused map.

With it the neck by which TSIC makes such maps of a plain vision transformer's, which all have one size. TriKD's
decoder is another UPer head, see models/_trikd_decoder.py.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._heads import BINS, ConvBNReLU, PooledConv, PyramidPooling
from ._prediction import resize

Arrangement = Literal["mmseg", "cirkd"]
# channels of CIRKD's pooled levels, whatever the width of the rest
CIRKD_LEVEL = 512
# of TSIC's pyramid: the size of its maps, relative to those it is made of
SCALES = (4.0, 2.0, 1.0, 0.5)


class CIRKDLevel(nn.Module):
    """CIRKD's pooled level: average pool to bins x bins, back to the input's size, 1x1 convolution, batch norm, ReLU.

    The 1x1 runs before the resize, with which it commutes; batch norm counts the resized pixels as there.
    """

    def __init__(self, in_channels: int, out_channels: int, bins: int, align_corners: bool):
        super().__init__()
        self.bins, self.align_corners = bins, align_corners
        # not a ConvBNReLU: other names than in mmsegmentation's pyramid tell the two arrangements apart by their keys
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.conv(F.adaptive_avg_pool2d(x, self.bins))  # (B, out_channels, bins, bins)
        return F.relu(self.bn(resize(pooled, x.shape[-2:], self.align_corners)), inplace=True)


class UPerHead(nn.Module):
    """Four maps, shallow to deep, to one: everything of a UPer head but the classifier.

        L_4 = pyramid(f_4); L_i = lateral_i(f_i) + resize(L_(i+1)) for i = 3, 2, 1
        fused = CBR3(concat(CBR3(L_1), CBR3(L_2), CBR3(L_3), L_4)), all at the size of f_1

    CBR3: 3x3 convolution, batch norm, ReLU; lateral_i: 1x1, batch norm, ReLU.

    Args:
        in_channels: of the four maps. width: of every level and of the result.
        bins: grids of the pyramid pooling.
        align_corners: for every resize inside; CIRKD's arrangement never aligns.
        arrangement: `mmseg`, or `cirkd`: the pooled levels are resized before their 1x1 and always 512 wide, and the
            last 3x3 has stride 2.

    Shapes:
        maps: four (B, in_channels[i], h_i, w_i) -> (B, width, h_1, w_1), in CIRKD's arrangement half the size.
    """

    def __init__(
        self,
        in_channels: tuple[int, int, int, int],
        width: int,
        *,
        bins: tuple[int, ...] = BINS,
        align_corners: bool = False,
        arrangement: Arrangement = "mmseg",
    ):
        super().__init__()
        is_cirkd = arrangement == "cirkd"
        self.align_corners = align_corners and not is_cirkd
        level_width, level = (CIRKD_LEVEL, CIRKDLevel) if is_cirkd else (width, PooledConv)
        self.pyramid = PyramidPooling(in_channels[3], width, self.align_corners, bins, level_width, level)
        self.laterals = nn.ModuleList(ConvBNReLU(channels, width, 1) for channels in in_channels[:3])
        self.outputs = nn.ModuleList(ConvBNReLU(width, width, 3) for _ in range(3))
        self.fuse = ConvBNReLU(4 * width, width, 3)
        if is_cirkd:
            self.fuse.conv.stride = (2, 2)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        level = self.pyramid(maps[3])
        levels = [resize(level, size, self.align_corners)]
        for i in (2, 1, 0):
            lateral = self.laterals[i](maps[i])
            level = lateral + resize(level, lateral.shape[-2:], self.align_corners)
            levels.insert(0, resize(self.outputs[i](level), size, self.align_corners))
        return self.fuse(torch.cat(levels, dim=1))  # (B, 4 * width, h_1, w_1) -> (B, width, ...)


class MultiLevelNeck(nn.Module):
    """Each map through a 1x1, a bilinear resize by its factor and a 3x3 convolution, all with bias and nothing between.

    mmsegmentation's neck of that name, as TSIC uses it. Weights start Xavier uniform, biases at 0.

    Args:
        in_channels: of the four maps, which come in the order shallow to deep and get the factors 4, 2, 1, 1/2.
        width: channels of the pyramid.

    Shapes:
        maps: four (B, in_channels, h, w) -> (B, width, floor(f h), floor(f w)) for each factor f.
    """

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(in_channels, width, 1) for _ in SCALES)
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in SCALES)
        for conv in (*self.laterals, *self.outputs):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = []
        for x, scale, lateral, output in zip(maps, SCALES, self.laterals, self.outputs, strict=True):
            x = lateral(x)  # (B, width, h, w)
            if scale != 1:
                # by the factor itself: with an odd h, the size it gives is not f h, and places are taken at exact steps
                x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
            levels.append(output(x))
        return levels
