"""The encoders heads are put on, by name; models/_network.py says what each of them has."""

from typing import Literal, get_args

from ._encoder import DilationRule, Encoder, Stride
from ._mit import MiT, MiTName
from ._mobilenet import MobileNetV2, MobileNetV2Name, MobileNetV3, MobileNetV3Name
from ._mobilevit import MobileViT, MobileViTName
from ._resnet import ResNet, ResNetName, Stem
from ._timm import TimmBackbone
from ._xception import Xception, XceptionName

BackboneName = Literal[ResNetName, MobileNetV2Name, MobileNetV3Name, MobileViTName, XceptionName, MiTName]


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

# ResNet and MobileNetV2 have every rule, these some, the others timm's alone
RULES = dict.fromkeys(get_args(MobileNetV3Name), ("timm", "cirkd", "mmseg"))
RULES |= dict.fromkeys(get_args(MobileViTName), ("timm", "cirkd"))


def build_backbone(
    name: Backbone, output_stride: Stride, stem: Stem = "plain", dilation_rule: DilationRule = "timm"
) -> Encoder:
    """An encoder with random weights; models/_network.py describes the arguments.

    Raises:
        ValueError: a stride, stem or rule this encoder does not have, or a network that timm does not have.
    """
    if name in get_args(ResNetName):
        return ResNet(name, output_stride, stem, dilation_rule)
    if stem != "plain":
        raise ValueError(f"backbone {name} has the plain stem only, got stem {stem!r}")
    if name in get_args(MobileNetV2Name):
        return MobileNetV2(name, output_stride, dilation_rule)
    rules = RULES.get(name, ("timm",))
    if dilation_rule not in rules:
        raise ValueError(f"backbone {name} has no dilation rule {dilation_rule!r}; it has: {', '.join(rules)}")
    if name in get_args(MobileNetV3Name):
        return MobileNetV3(name, output_stride, dilation_rule)
    if name in get_args(MobileViTName):
        return MobileViT(name, output_stride, dilation_rule)
    if name in get_args(XceptionName):
        return Xception(name, output_stride)
    if name.startswith("timm/"):
        return TimmBackbone(name.removeprefix("timm/"), output_stride)
    assert name in get_args(MiTName), name
    if output_stride != 32:
        raise ValueError(f"backbone {name} has the output stride 32 and takes no other, got {output_stride!r}")
    return MiT(name)


def head_width(name: Backbone) -> int:
    """The width heads have on this encoder unless told otherwise: 512 on the bottleneck ResNets, else 128."""
    return 512 if name in ("resnet50", "resnet101") else 128
