"""The encoders heads are put on, by name.

A backbone is called as `backbone(x, wanted)` with x (B, 3, H, W) normalised, and returns name -> map for stage1..stage4
and for those of its other names that are in `wanted`. Its `channels` and `strides` list all names; `norms` tells the
batch norms behind some. `imagenet` is the timm name of its published weights (None: there are none), `dropped` the key
prefixes of such a file it has no use for, `fitted(state)`, where a backbone has it, makes such weights fit,
`published_file()`, where it has that, is a file of published weights that are not timm's.
"""

from typing import Literal, get_args

from torch import nn

from ._dilation import DilationRule
from ._mit import MiT, MiTName
from ._mobilenetv2 import MobileNetV2, MobileNetV2Name
from ._mobilenetv3 import MobileNetV3, MobileNetV3Name
from ._mobilevit import MobileViT, MobileViTName
from ._resnet import ResNet, ResNetName, Stem
from ._timm import TimmBackbone
from ._xception import Xception, XceptionName

BackboneName = Literal[ResNetName, MobileNetV2Name, MobileNetV3Name, MobileViTName, XceptionName, MiTName]
PLAIN_STEMMED = {
    MobileNetV2: MobileNetV2Name,
    MobileNetV3: MobileNetV3Name,
    MobileViT: MobileViTName,
    Xception: XceptionName,
}


class TimmName(str):
    """`timm/` and the name of a timm network: a plain string, told from a misspelt name when a recipe is checked."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> dict:
        return {
            "type": "custom-error",
            "schema": {"type": "str", "pattern": "^timm/."},
            "custom_error_type": "timm_name",
            "custom_error_message": "must be timm/<name of a timm network>",
        }


Backbone = BackboneName | TimmName


def build_backbone(
    name: Backbone, output_stride: Literal[8, 16, 32], stem: Stem = "plain", dilation_rule: DilationRule = "timm"
) -> nn.Module:
    """A backbone with random weights.

    Args:
        name: see BackboneName, or `timm/` and the name of any network of timm's.
        output_stride: pixels of the image per pixel of stage4; what lacks to 32 becomes dilation.
        stem: see STEMS; only ResNets have others than the plain one.
        dilation_rule: whose rule says which convolutions are dilated; what it means stands with each family.

    Raises:
        ValueError: an unknown name, or a stride, stem or rule this backbone does not have.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride!r}")
    if stem not in get_args(Stem):
        raise ValueError(f"stem must be one of {', '.join(get_args(Stem))}, got {stem!r}")
    if dilation_rule not in get_args(DilationRule):
        raise ValueError(f"dilation_rule must be one of {', '.join(get_args(DilationRule))}, got {dilation_rule!r}")
    if name in get_args(ResNetName):
        return ResNet(name, output_stride, stem, dilation_rule)
    if stem != "plain":
        raise ValueError(f"backbone {name} has the plain stem only, got stem {stem!r}")
    if name.startswith("timm/") or name in get_args(MiTName):
        if dilation_rule != "timm":
            raise ValueError(f"backbone {name} has the dilation rule timm only, got {dilation_rule!r}")
        if name.startswith("timm/"):
            return TimmBackbone(name.removeprefix("timm/"), output_stride)
        if output_stride != 32:
            raise ValueError(f"backbone {name} has the output stride 32 and takes no other, got {output_stride!r}")
        return MiT(name)
    for family, names in PLAIN_STEMMED.items():
        if name in get_args(names):
            return family(name, output_stride, dilation_rule)
    raise ValueError(f"no backbone {name!r}; there are: {', '.join(get_args(BackboneName))} and timm/<name>")


def head_width(name: Backbone) -> int:
    """The width heads have on this backbone unless told otherwise: 512 on the bottleneck ResNets, else 128."""
    return 512 if name in ("resnet50", "resnet101") else 128
