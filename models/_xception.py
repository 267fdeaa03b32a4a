"""Xception-65 as UniMatch (and TriKD's code) puts it under DeepLabV3+."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ._encoder import Encoder, Stride

XceptionName = Literal["xception65"]

# output stride -> strides of blocks 2, 3 and 20, dilation of every 3x3 behind block 3
STRIDES = {8: ((2, 1, 1), 2), 16: ((2, 2, 1), 1), 32: ((2, 2, 2), 1)}
MIDDLE_BLOCKS = 16
BN_MOMENTUM = 3e-4


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """The batch norm of this network, whose running statistics move slowly."""
    return nn.BatchNorm2d(channels, momentum=BN_MOMENTUM)


class SeparableConv(nn.Module):
    """Depthwise 3x3, batch norm, pointwise 1x1, batch norm, with one ReLU before all, or one behind each batch norm.

    Shapes:
        x: (B, in_channels, h, w) -> (B, out_channels, ceil(h / stride), ceil(w / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, relu_first: bool):
        super().__init__()
        self.relu_first = relu_first
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        )
        self.bn1 = batch_norm(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.relu_first:
            return self.bn2(self.pointwise(self.bn1(self.depthwise(F.relu(x)))))
        x = F.relu(self.bn1(self.depthwise(x)), inplace=True)
        return F.relu(self.bn2(self.pointwise(x)), inplace=True)


class Block(nn.Module):
    """Three separable convolutions and a shortcut, projected where the channels or the size change.

    Where they do not, the shortcut carries relu(x): the original's first ReLU overwrites x before it is added.

    Shapes:
        x: (B, in_channels, h, w) -> (B, out_channels, ceil(h / stride), ceil(w / stride)), and the map behind the
        second convolution, (B, out_channels, h, w).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, widens_first: bool = True):
        super().__init__()
        width = out_channels if widens_first else in_channels
        projects = in_channels != out_channels or stride != 1
        self.skip = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if projects else None
        self.skipbn = batch_norm(out_channels) if projects else None
        self.sepconv1 = SeparableConv(in_channels, width, 1, dilation, relu_first=True)
        self.sepconv2 = SeparableConv(width, out_channels, 1, dilation, relu_first=True)
        self.sepconv3 = SeparableConv(out_channels, out_channels, stride, dilation, relu_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shortcut = F.relu(x) if self.skip is None else self.skipbn(self.skip(x))
        middle = self.sepconv2(self.sepconv1(x))
        return self.sepconv3(middle) + shortcut, middle


class Xception(Encoder):
    """Xception with 20 blocks and three more separable convolutions, without the classifier.

    Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, CVPR 2017, arXiv 1610.02357, deepened by
    Chen et al., ECCV 2018 (DeepLabV3+). Kaiming normal (fan out); there are no published weights within reach.

    Features:
        stage1: the map behind the second of block 2's three convolutions, before a ReLU, at stride 4 (256 channels);
        stage2, stage3: the sums of blocks 2 and 19 (256, 728), before a ReLU, at stride 8 and at most 16;
        stage4: the last convolution after its ReLU (2048), at stride `output_stride`.
    """

    dropped = ("fc.",)

    def __init__(self, name: XceptionName, output_stride: Stride):
        super().__init__()
        (second, third, last), dilation = STRIDES[output_stride]
        self.conv1 = nn.Conv2d(3, 32, 3, 2, padding=1, bias=False)
        self.bn1 = batch_norm(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = batch_norm(64)
        self.blocks = nn.ModuleList([Block(64, 128, 2, 1), Block(128, 256, second, 1), Block(256, 728, third, 1)])
        self.blocks.extend(Block(728, 728, 1, dilation) for _ in range(MIDDLE_BLOCKS))
        self.blocks.append(Block(728, 1024, last, dilation, widens_first=False))
        self.conv3 = SeparableConv(1024, 1536, 1, dilation, relu_first=False)
        self.conv4 = SeparableConv(1536, 1536, 1, dilation, relu_first=False)
        self.conv5 = SeparableConv(1536, 2048, 1, dilation, relu_first=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.channels = {"stage1": 256, "stage2": 256, "stage3": 728, "stage4": 2048}
        self.strides = {"stage1": 4, "stage2": 8, "stage3": min(16, output_stride), "stage4": output_stride}
        norm = self.blocks[1].sepconv2.bn2
        self.norms = {"stage1": (norm.weight, norm.bias)}

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = {}
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        for number, block in enumerate(self.blocks, start=1):
            x, middle = block(x)
            if number == 2:
                found["stage1"], found["stage2"] = middle, x
            if number == 3 + MIDDLE_BLOCKS:
                found["stage3"] = x
        found["stage4"] = self.conv5(self.conv4(self.conv3(x)))
        return found
