"""The encoders heads are put on, by name.

A backbone is called as `backbone(x, wanted)` with x (B, 3, H, W) normalised, and returns name -> map for stage1..stage4
and for those of its other names that are in `wanted`. Its `channels` and `strides` list all names; `norms` tells the
batch norms behind some. `imagenet` is the timm name of its published weights (None: there are none), `dropped` the key
prefixes of such a file it has no use for.
"""

from typing import Literal, get_args

from torch import nn

from ._dilation import DilationRule
from ._mobilenetv2 import MobileNetV2, MobileNetV2Name
from ._resnet import ResNet, ResNetName, Stem

BackboneName = Literal[ResNetName, MobileNetV2Name]


def build_backbone(
    name: BackboneName, output_stride: Literal[8, 16], stem: Stem = "plain", dilation_rule: DilationRule = "timm"
) -> nn.Module:
    """A backbone with random weights.

    Args:
        name: see BackboneName.
        output_stride: pixels of the image per pixel of stage4; what lacks to 32 becomes dilation.
        stem: see STEMS; MobileNetV2 has the plain one only.
        dilation_rule: which convolutions are dilated, timm's rule (also CIRKD's and torchvision's) or mmsegmentation's.

    Raises:
        ValueError: an unknown name, stride, stem or rule.
    """
    if output_stride not in (8, 16):
        raise ValueError(f"output_stride must be 8 or 16, got {output_stride!r}")
    if stem not in get_args(Stem):
        raise ValueError(f"stem must be one of {', '.join(get_args(Stem))}, got {stem!r}")
    if dilation_rule not in get_args(DilationRule):
        raise ValueError(f"dilation_rule must be one of {', '.join(get_args(DilationRule))}, got {dilation_rule!r}")
    if name in get_args(ResNetName):
        return ResNet(name, output_stride, stem, dilation_rule)
    if name in get_args(MobileNetV2Name):
        if stem != "plain":
            raise ValueError(f"backbone {name} has the plain stem only, got stem {stem!r}")
        return MobileNetV2(name, output_stride, dilation_rule)
    raise ValueError(f"no backbone {name!r}; there are: {', '.join(get_args(BackboneName))}")


def head_width(name: BackboneName) -> int:
    """The width heads have on this backbone unless told otherwise: 512 on the bottleneck ResNets, else 128."""
    return 512 if name in ("resnet50", "resnet101") else 128
