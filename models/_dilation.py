"""The rules by which strides of a classifier become dilations of a segmentation encoder."""

from typing import Literal

from torch import nn

# timm: also torchvision's and UniMatch's; each family of encoders has a table of what the rules mean for it
DilationRule = Literal["timm", "mmseg", "cirkd", "aicsd"]


def set_dilation(conv: nn.Conv2d, dilation: int) -> None:
    """Dilates a convolution of odd kernel in place, its padding with it, so that the size stays."""
    height, width = conv.kernel_size
    assert height == width and height % 2 == 1, conv
    conv.dilation = (dilation, dilation)
    conv.padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
