"""A pyramid of maps made of a plain vision transformer's, which all have one size."""

import torch.nn.functional as F
from torch import Tensor, nn

SCALES = (4.0, 2.0, 1.0, 0.5)


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
