"""The rules by which strides of a classifier become dilations of a segmentation encoder."""

from typing import Literal

from torch import nn

DilationRule = Literal["timm", "mmseg"]


def set_dilation(conv: nn.Conv2d, dilation: int) -> None:
    """Dilates a 3x3 convolution in place, its padding with it, so that the size stays."""
    assert conv.kernel_size == (3, 3), conv
    conv.dilation = conv.padding = (dilation, dilation)
