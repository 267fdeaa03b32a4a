"""Checkpoints of mmsegmentation (0.x and 1.x), RMRKD and TSIC's student: backbone, decode_head, auxiliary_head."""

from torch import Tensor

from . import _bisenetv2, _dual_resolution, _lraspp, _segformer, _segnext, _stdc, _topformer
from ._encoders import mobilenetv2_name, mobilenetv2_pairs, resnet_name, resnet_pairs, stem_of
from ._layout import Described, Renaming, model_of

CODE = "mmsegmentation"
# layouts of one network each
WHOLE = (_segformer.MMSEG, _lraspp.MMSEG, _segnext.MMSEG, _bisenetv2.MMSEG, _dual_resolution.PIDNET_MMSEG,
         _dual_resolution.DDRNET_MMSEG, _stdc.MMSEG)  # fmt: skip
# of codes built on mmsegmentation, which keep some of its names
OTHERS = (_segformer.NVIDIA, _segnext.ORIGINAL, _topformer.ORIGINAL)

ASPP = [
    ("decode_head.image_pool.1.*", "aspp.image_pool.conv.*"),
    ("decode_head.aspp_modules.#.depthwise_conv.*", "aspp.branches.#.depthwise.*"),
    ("decode_head.aspp_modules.#.pointwise_conv.*", "aspp.branches.#.pointwise.*"),
    ("decode_head.aspp_modules.#.*", "aspp.branches.#.*"),
    ("decode_head.bottleneck.*", "aspp.project.*"),
]
UPER = [
    ("decode_head.psp_modules.#.1.*", "head.pyramid.levels.#.conv.*"),
    ("decode_head.bottleneck.*", "head.pyramid.project.*"),
    ("decode_head.lateral_convs.#.*", "head.laterals.#.*"),
    ("decode_head.fpn_convs.#.*", "head.outputs.#.*"),
    ("decode_head.fpn_bottleneck.*", "head.fuse.*"),
]
CLASSIFIERS = [
    ("decode_head.conv_seg.*", "classifier.*"),
    ("auxiliary_head.convs.0.*", "aux_head.conv.*"),
    ("auxiliary_head.conv_seg.*", "aux_head.classifier.*"),
]
HEADS = {
    "deeplabv3": ASPP,
    "deeplabv3plus": ASPP
    + [
        ("decode_head.c1_bottleneck.*", "low_level.*"),
        ("decode_head.sep_bottleneck.#.depthwise_conv.*", "decoder.#.depthwise.*"),
        ("decode_head.sep_bottleneck.#.pointwise_conv.*", "decoder.#.pointwise.*"),
    ],
    "pspnet": [
        ("decode_head.psp_modules.#.1.*", "pyramid.levels.#.conv.*"),
        ("decode_head.bottleneck.*", "pyramid.project.*"),
    ],
    "upernet": UPER,
}

# entries only this network has, in their names and in ours
MARKS = {
    "upernet": ("decode_head.fpn_bottleneck.conv.weight", "head.pyramid.levels.0.conv.conv.weight"),
    "deeplabv3plus": ("decode_head.c1_bottleneck.conv.weight", "low_level.conv.weight"),
    "deeplabv3": ("decode_head.aspp_modules.0.conv.weight", "aspp.project.conv.weight"),
    "pspnet": ("decode_head.psp_modules.0.1.conv.weight", "pyramid.project.conv.weight"),
}


def fits(state: dict[str, Tensor]) -> bool:
    """Whether these are the keys of a segmentor of mmsegmentation."""
    has_keys = "decode_head.conv_seg.weight" in state and any(key.startswith("backbone.") for key in state)
    return has_keys and not any(layout.fits(state) for layout in OTHERS)


def describe(state: dict[str, Tensor]) -> Described:
    """The network in its published form: output stride 8 (UPerNet 32) and mmsegmentation's dilations.

    Raises:
        ValueError: a head or a backbone this project does not have.
    """
    for layout in WHOLE:
        if layout.fits(state):
            return layout.describe(state)
    model = _their_model(state)
    args: dict = {"dilation_rule": "mmseg", "output_stride": 8, "align_corners": False}
    if "backbone.conv1.conv.weight" in state:
        args["backbone"] = mobilenetv2_name(state)
    else:
        args |= {"backbone": resnet_name(state), "stem": stem_of(state)}
    args["width"] = state["decode_head.bottleneck.conv.weight"].shape[0]
    if model == "upernet":
        args |= {"arrangement": "mmseg", "output_stride": 32}
    if model == "deeplabv3plus":
        args["separable"] = "decode_head.aspp_modules.1.depthwise_conv.conv.weight" in state
    aux = state.get("auxiliary_head.conv_seg.weight")
    args |= {"aux": False} if aux is None else {"aux": True, "aux_width": aux.shape[1]}
    return Described(model, state["decode_head.conv_seg.weight"].shape[0], args, normalize="imagenet")


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their entries under our names."""
    for layout in WHOLE:
        if layout.fits(state):
            return layout.read(state)
    backbone = "mobilenetv2" if "backbone.conv1.conv.weight" in state else stem_of(state)
    return renaming(_their_model(state), backbone).to_ours(state)


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our entries under their names. ValueError: a network they do not have.

    Dilations and align_corners are no entries: only networks built as `describe` says compute the same there.
    """
    for layout in WHOLE:
        if layout.is_ours(state):
            return layout.write(state)
    model = model_of(state, MARKS, "ours", f"{CODE} has no such network")
    backbone = "mobilenetv2" if "backbone.conv_stem.weight" in state else stem_of(state)
    if model == "pspnet":
        if len(state["pyramid.levels.0.conv.conv.weight"]) != len(state["pyramid.project.conv.weight"]):
            raise ValueError(f"{CODE}'s PSPNet has levels as wide as its output: level_width must be left out")
    elif model.startswith("deeplab") and state["aspp.project.conv.weight"].shape[-1] != 3:
        raise ValueError(f"{CODE}'s ASPP ends with a 3x3 convolution: a 1x1 projection has no place there")
    return renaming(model, backbone).write(state, CODE)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """ImageNet weights of mmsegmentation's ResNetV1c (bare) or of mmpretrain's encoders (under `backbone.`)."""
    prefix = "backbone." if "head.fc.weight" in state else ""
    state = {key.removeprefix(prefix): value for key, value in state.items() if not key.startswith(("head.fc.", "fc."))}
    if "layer7.0.conv.2.conv.weight" in state:
        # conv2 is the classifier's 1x1 convolution to 1280 channels
        state = {key: value for key, value in state.items() if not key.startswith("conv2.")}
        return Renaming(mobilenetv2_pairs("mmseg", "", "")).to_ours(state)
    if "stem.7.weight" in state and "layer1.0.conv1.weight" in state:
        return Renaming(resnet_pairs("mmseg", "", "")).to_ours(state)
    if prefix and "layer1.0.conv1.weight" in state:
        return Renaming(resnet_pairs("plain", "", "")).to_ours(state)
    return None


def _their_model(state: dict[str, Tensor]) -> str:
    heads = sorted({key.split(".")[1] for key in state if key.startswith("decode_head.")})
    return model_of(state, MARKS, "theirs", f"none of our networks has a decode_head of {', '.join(heads)}")


def renaming(model: str, backbone: str) -> Renaming:
    """The table of a network; `backbone` is mobilenetv2 or a ResNet's stem."""
    if backbone == "mobilenetv2":
        pairs = mobilenetv2_pairs("mmseg")
    else:
        pairs = resnet_pairs("plain" if backbone == "plain" else "mmseg")
    return Renaming(pairs + HEADS[model] + CLASSIFIERS)
