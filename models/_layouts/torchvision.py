"""Checkpoints of torchvision's DeepLabV3 on ResNets and LR-ASPP: backbone, classifier, aux_classifier."""

from torch import Tensor

from . import _lraspp
from ._encoders import mobilenetv2_pairs, resnet_name, resnet_pairs, stem_of
from ._layout import Described, Renaming, conv_bn

CODE = "torchvision"

HEADS = [
    *conv_bn("classifier.0.convs.4", "aspp.image_pool.conv", 1, 2),
    *conv_bn("classifier.0.convs.#", "aspp.branches.#"),
    *conv_bn("classifier.0.project", "aspp.project"),
    *conv_bn("classifier", "refine", 1, 2),
    ("classifier.4.*", "classifier.*"),
    *conv_bn("aux_classifier", "aux_head.conv"),
    ("aux_classifier.4.*", "aux_head.classifier.*"),
]
RENAMING = Renaming(resnet_pairs("plain") + HEADS)


def fits(state: dict[str, Tensor]) -> bool:
    """Whether these are the keys of torchvision's DeepLabV3 on a ResNet, or of its LR-ASPP."""
    if _lraspp.TORCHVISION.fits(state):
        return True
    return "classifier.0.convs.0.0.weight" in state and "backbone.layer1.0.conv1.weight" in state


def describe(state: dict[str, Tensor]) -> Described:
    """The network at torchvision's output stride of 8.

    torchvision has dropout in the auxiliary head (0.1 of the elements) and after the projection, none before the
    classifier: 0.1 before both stands for it in training.
    """
    if _lraspp.TORCHVISION.fits(state):
        return _lraspp.TORCHVISION.describe(state)
    args = {"backbone": resnet_name(state), "stem": stem_of(state), "dilation_rule": "timm", "output_stride": 8}
    args |= {"align_corners": False, "projection": "1x1", "width": state["classifier.1.weight"].shape[0]}
    args |= {"dropout": 0.1, "dropout_kind": "elements", "head_init": "torch"}
    aux = state.get("aux_classifier.0.weight")
    args |= {"aux": False} if aux is None else {"aux": True, "aux_width": len(aux)}
    return Described("deeplabv3", state["classifier.4.weight"].shape[0], args, normalize="imagenet")


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their entries under our names."""
    if _lraspp.TORCHVISION.fits(state):
        return _lraspp.TORCHVISION.read(state)
    return RENAMING.to_ours(state)


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our entries under their names. ValueError: a network torchvision does not have.

    Dilations and align_corners are no entries: only networks built as `describe` says compute the same there.
    """
    if _lraspp.TORCHVISION.is_ours(state):
        return _lraspp.TORCHVISION.write(state)
    if "refine.conv.weight" not in state or stem_of(state) != "plain":
        raise ValueError(f"{CODE} has DeepLabV3 with projection: 1x1 on ResNets with stem: plain only")
    return RENAMING.write(state, CODE)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """torchvision's ImageNet weights of MobileNetV2 and V3; its ResNets have timm's names."""
    if "features.2.conv.1.0.weight" not in state:
        return _lraspp.backbone(state)
    kept = {key: value for key, value in state.items() if not key.startswith(("classifier.", "features.18."))}
    return Renaming(mobilenetv2_pairs("nested", "", "")).to_ours(kept)
