"""Checkpoints of CIRKD (both versions) and of DIST, which has its networks: pretrained, head, auxlayer."""

from torch import Tensor

from . import _cirkd_mobile, _segformer
from ._described import Described, model_of
from ._encoders import mobilenetv2_name, mobilenetv2_pairs, resnet_name, resnet_pairs, stem_of
from ._renaming import Renaming, conv_bn

CODE = "CIRKD"
UNKNOWN = f"{CODE} has no such network"

HEADS = {
    "deeplabv3": [
        *conv_bn("head.aspp.b0", "aspp.branches.0"),
        *conv_bn("head.aspp.b#.block", "aspp.branches.#"),
        *conv_bn("head.aspp.b4.gap", "aspp.image_pool.conv", 1, 2),
        *conv_bn("head.aspp.project", "aspp.project"),
        *conv_bn("head.block", "refine"),
        ("head.block.4.*", "classifier.*"),
    ],
    "pspnet": [
        *(row for i in range(4) for row in conv_bn(f"head.psp.conv{i + 1}", f"pyramid.levels.{i}.conv")),
        *conv_bn("head.block", "pyramid.project"),
        ("head.classifier.*", "classifier.*"),
    ],
    "upernet": [
        *conv_bn("head.ppm_conv.#", "head.pyramid.levels.#"),
        *conv_bn("head.ppm_last_conv", "head.pyramid.project"),
        *conv_bn("head.fpn_in.#", "head.laterals.#"),
        *conv_bn("head.fpn_out.#.0", "head.outputs.#"),
        *conv_bn("head.conv_last.0", "head.fuse"),
        ("head.conv_last.1.*", "classifier.*"),
    ],
}
AUX = [*conv_bn("auxlayer.block", "aux_head.conv"), ("auxlayer.block.4.*", "aux_head.classifier.*")]

# entries only this network has, in their names and in ours
MARKS = {
    "deeplabv3": ("head.aspp.b0.0.weight", "refine.conv.weight"),
    "pspnet": ("head.psp.conv1.0.weight", "pyramid.project.conv.weight"),
    "upernet": ("head.conv_last.0.0.weight", "head.pyramid.levels.0.bn.weight"),
}
CLASSIFIERS = {
    "deeplabv3": "head.block.4.weight",
    "pspnet": "head.classifier.weight",
    "upernet": "head.conv_last.1.weight",
}


def fits(state: dict[str, Tensor]) -> bool:
    """Whether these are the keys of a network of CIRKD or DIST."""
    if _segformer.CIRKD.fits(state):
        return True
    return _family(state) is not None and any(marks[0] in state for marks in MARKS.values())


def describe(state: dict[str, Tensor]) -> Described:
    """The network with CIRKD's strides, dilations and dropout; its images are BGR less a mean.

    Raises:
        ValueError: a backbone this project does not have.
    """
    if _segformer.CIRKD.fits(state):
        return _segformer.CIRKD.describe(state)
    model, family = model_of(state, MARKS, "theirs", UNKNOWN), _family(state)
    args: dict = {"dilation_rule": "cirkd", "output_stride": 8, "align_corners": True, "head_init": "torch"}
    args |= {"dropout": 0.1, "dropout_kind": "elements"}
    if family == "resnet":
        args |= {"backbone": resnet_name(state, "pretrained."), "stem": stem_of(state, "pretrained.")}
    elif family == "mobilenetv2":
        args["backbone"] = mobilenetv2_name(state, "pretrained.net.")
    else:
        args["backbone"] = family
    if model == "upernet":
        args |= {"width": len(state["head.conv_last.0.0.weight"]), "arrangement": "cirkd"}
    elif model == "deeplabv3":
        args |= {"projection": "1x1", "width": state["head.block.0.weight"].shape[0]}
    else:
        args |= {"width": state["head.block.0.weight"].shape[0], "level_width": len(state["head.psp.conv1.0.weight"])}
    aux = state.get("auxlayer.block.0.weight")
    args |= {"aux": False} if aux is None else {"aux": True, "aux_width": len(aux)}
    return Described(model, state[CLASSIFIERS[model]].shape[0], args, normalize="cirkd")


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their entries under our names."""
    if _segformer.CIRKD.fits(state):
        return _segformer.CIRKD.read(state)
    model = model_of(state, MARKS, "theirs", UNKNOWN)
    return _renaming(model, _family(state), stem_of(state, "pretrained.")).to_ours(state)


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our entries under their names. ValueError: a network they do not have.

    Dilations and align_corners are no entries: only networks built as `describe` says compute the same there.
    """
    if _segformer.is_ours(state):
        return _segformer.CIRKD.write(state)
    model, family, stem = model_of(state, MARKS, "ours", UNKNOWN), _our_family(state), stem_of(state)
    if family != "resnet" and "aux_head.classifier.weight" in state:
        raise ValueError(f"{CODE}'s networks on {family} have no auxiliary head: set aux: false")
    if family == "resnet" and stem == "v1c":
        raise ValueError(f"{CODE}'s deep stem is 64, 64, 128 wide: stem must be v1s, not v1c")
    if model == "pspnet":
        level, in_channels = state["pyramid.levels.0.conv.conv.weight"].shape[:2]
        if level * 4 != in_channels:
            raise ValueError(f"{CODE}'s PSPNet has levels of {in_channels // 4} channels: set level_width to that")
    return _renaming(model, family, stem).write(state, CODE)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """CIRKD's ImageNet weights: deep-stem ResNets, MobileNetV2, MobileNetV3, MobileViT."""
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier.", "features.18."))}
    if "conv3.weight" in state and "layer1.0.conv1.weight" in state:
        return Renaming(resnet_pairs("cirkd", "", "")).to_ours(state)
    if "features.17.conv.6.weight" in state:
        return Renaming(mobilenetv2_pairs("flat", "", "")).to_ours(state)
    return _cirkd_mobile.imagenet(state)


def _family(state: dict[str, Tensor]) -> str | None:
    """resnet, mobilenetv2 or the whole name of another backbone under `pretrained.`; None: none of theirs."""
    if "pretrained.layer1.0.conv1.weight" in state:
        return "resnet"
    if "pretrained.net.features.0.0.weight" in state:
        return "mobilenetv2"
    return _cirkd_mobile.backbone_name(state)


def _our_family(state: dict[str, Tensor]) -> str:
    """The same of one of our states."""
    if "backbone.layer1.0.conv1.weight" in state:
        return "resnet"
    if "backbone.blocks.6.0.conv_pwl.weight" in state:
        return "mobilenetv2"
    for name, groups in _cirkd_mobile.MOBILENETV3_GROUPS.items():
        if f"backbone.blocks.{len(groups)}.0.conv.weight" in state:
            return name
    last = state.get("backbone.final_conv.conv.weight")
    if last is not None and len(last) in _cirkd_mobile.MOBILEVIT_NAMES:
        return _cirkd_mobile.MOBILEVIT_NAMES[len(last)]
    raise ValueError(
        f"{CODE} has ResNet, MobileNetV2, MobileNetV3 and MobileViT only, and this backbone is none of them"
    )


def _renaming(model: str, family: str, stem: str) -> Renaming:
    """The table of a network."""
    if family == "resnet":
        pairs = resnet_pairs("plain" if stem == "plain" else "cirkd", "pretrained.")
    elif family == "mobilenetv2":
        pairs = mobilenetv2_pairs("flat", "pretrained.net.")
    else:
        pairs = _cirkd_mobile.pairs(family)
    return Renaming(pairs + HEADS[model] + AUX)
