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


class ForeignName(str):
    """`timm/` or `hf/` and a name there: a plain string, told from a misspelt name when a recipe is checked."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> dict:
        return {
            "type": "custom-error",
            "schema": {"type": "str", "pattern": "^(timm|hf)/."},
            "custom_error_type": "foreign_name",
            "custom_error_message": "must be timm/<name of a timm network> or hf/<id or folder of one of transformers>",
        }


# a dict is the configuration of a network of transformers, as its config.json has it
Backbone = BackboneName | ForeignName | dict

# ResNet and MobileNetV2 have every rule, these some, the others timm's alone
RULES = dict.fromkeys(get_args(MobileNetV3Name), ("timm", "cirkd", "mmseg"))
RULES |= dict.fromkeys(get_args(MobileViTName), ("timm", "cirkd"))


def build_backbone(
    name: Backbone,
    output_stride: Stride | None,
    stem: Stem = "plain",
    dilation_rule: DilationRule = "timm",
    *,
    alone: bool = False,
    last_norm: bool = False,
) -> Encoder:
    """An encoder with random weights; models/_network.py describes the arguments.

    Args:
        output_stride: None: the encoder's own.
        alone, last_norm: see models/_timm.py and models/_hf_backbone.py.

    Raises:
        ValueError: a stride, stem, rule or last norm this encoder does not have, or a network that timm or transformers
            does not have.
        FileNotFoundError: no such network of transformers.
    """
    title = f"backbone {name['model_type'] if isinstance(name, dict) and 'model_type' in name else name}"
    is_foreign = isinstance(name, dict) or name.startswith(("timm/", "hf/"))
    if stem != "plain" and (is_foreign or name not in get_args(ResNetName)):
        raise ValueError(f"{title} has the plain stem only, got stem {stem!r}")
    if dilation_rule != "timm" and is_foreign:
        raise ValueError(f"{title} has no dilation rule {dilation_rule!r}; it has: timm")
    if isinstance(name, dict) or name.startswith("hf/"):
        from ._hf_backbone import HuggingFaceBackbone  # transformers takes seconds, for those who name one of its own

        source = name if isinstance(name, dict) else name.removeprefix("hf/")
        return HuggingFaceBackbone(source, output_stride, alone=alone, last_norm=last_norm)
    if is_foreign:
        return TimmBackbone(name.removeprefix("timm/"), output_stride, alone=alone, last_norm=last_norm)
    output_stride = output_stride or 32
    if output_stride == 14 or last_norm:
        told = "output stride 14" if output_stride == 14 else "last norm"
        raise ValueError(f"backbone {name} has no {told}; timm's and transformers' plain transformers have")
    if name in get_args(ResNetName):
        return ResNet(name, output_stride, stem, dilation_rule)
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
    assert name in get_args(MiTName), name
    if output_stride != 32:
        raise ValueError(f"backbone {name} has the output stride 32 and takes no other, got {output_stride!r}")
    return MiT(name)


def head_width(name: Backbone) -> int:
    """The width heads have on this encoder unless told otherwise: 512 on the bottleneck ResNets, else 128."""
    return 512 if name in ("resnet50", "resnet101") else 128
