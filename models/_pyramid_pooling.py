"""The pyramids of averages of DDRNet (DAPPM) and PIDNet (PAPPM)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._dual_resolution import BNReLUConv, enlarge
from ._heads import refuse_single

POOLS = ((5, 2, 2), (9, 4, 4), (17, 8, 8))  # kernel, stride, padding, which counts in the mean; then the global one


class PyramidPooling(nn.Module):
    """x beside its averages over growing windows, each compressed, joined, and added to a shortcut of x.

        s_0 = c_0(x),    s_k = enlarge(c_k(pool_k(x))),    out = compress([s_0, y...]) + shortcut(x)
        parallel (PAPPM): y = process([s_1 + s_0, ..., s_4 + s_0]) in four groups
        else (DAPPM): y_k = process_k(s_k + y_(k-1)), y_0 = s_0

    Args:
        width: channels of each level. out_channels: of the result.

    Shapes:
        x: (B, in_channels, h, w) -> (B, out_channels, h, w).
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, parallel: bool):
        super().__init__()
        count = len(POOLS) + 1
        self.parallel = parallel
        self.scales = nn.ModuleList([BNReLUConv(in_channels, width, 1) for _ in range(count + 1)])
        if parallel:
            processes = [BNReLUConv(count * width, count * width, 3, groups=count)]
        else:
            processes = [BNReLUConv(width, width, 3) for _ in range(count)]
        self.processes = nn.ModuleList(processes)
        self.compression = BNReLUConv((count + 1) * width, out_channels, 1)
        self.shortcut = BNReLUConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        refuse_single(x, self.scales[-1].bn)
        pooled = [F.avg_pool2d(x, *window) for window in POOLS]
        pooled.append(x.mean((2, 3), keepdim=True))
        first = self.scales[0](x)
        scaled = [enlarge(scale(map), x) for scale, map in zip(self.scales[1:], pooled, strict=True)]
        if self.parallel:
            joined = [first, self.processes[0](torch.cat([map + first for map in scaled], dim=1))]
        else:
            joined = [first]
            for process, map in zip(self.processes, scaled, strict=True):
                joined.append(process(map + joined[-1]))
        return self.compression(torch.cat(joined, dim=1)) + self.shortcut(x)  # (B, 5 * width, h, w) in
