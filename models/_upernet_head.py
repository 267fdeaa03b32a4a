"""UPerNet's head, also TSIC's: pyramid pooling on the deepest of four maps, a feature pyramid over all, one fused map.

TriKD's decoder is another UPer head, see models/_trikd_decoder.py.
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


class CIRKDLevel(nn.Module):
    """CIRKD's pooled level: average pool to bins x bins, back to the input's size, 1x1 convolution, batch norm, ReLU.

    The 1x1 runs before the resize, with which it commutes; batch norm counts the resized pixels as there.

    Shapes:
        x: (B, in_channels, h, w) -> (B, out_channels, h, w).
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

    Raises:
        ValueError: (mmseg) one bin and a batch of 1 in training.
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
