"""LR-ASPP on MobileNetV3 in torchvision and mmsegmentation, and MobileNetV3's ImageNet files of both."""

import functools
from typing import Literal

from torch import Tensor

from ._layout import Described, NetworkLayout, Renaming, conv_bn

# blocks of each stage, and whether these weigh their channels (squeeze and excitation)
STAGES = {
    "mobilenetv3_large_100": ((1, False), (2, False), (3, True), (4, False), (2, True), (3, True)),
    "mobilenetv3_small_100": ((1, True), (2, False), (3, True), (2, True), (3, True)),
}
CODES = Literal["torchvision", "mmseg"]


def mobilenetv3_pairs(name: str, code: CODES, theirs: str, ours: str) -> list[tuple[str, str]]:
    """(theirs, ours) for Renaming under the two prefixes: both codes number all layers in one row, timm the stages."""
    layer = f"{theirs}layer{{}}." if code == "mmseg" else f"{theirs}{{}}."
    pairs = _conv_bn(layer.format(0), ours, code, "conv_stem", "bn1")
    number = 1
    for stage, (count, weighs) in enumerate(STAGES[name]):
        for index in range(count):
            pairs += _block(layer.format(number), f"{ours}blocks.{stage}.{index}.", code, stage > 0, weighs)
            number += 1
    return pairs + _conv_bn(layer.format(number), f"{ours}blocks.{len(STAGES[name])}.0.", code, "conv", "bn1")


def _block(theirs: str, ours: str, code: CODES, expands: bool, weighs: bool) -> list[tuple[str, str]]:
    """The rows of one inverted residual; those of the first stage do not expand."""
    own = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
    if code == "mmseg":
        names = ("expand_conv.", "depthwise_conv.", "linear_conv.")[-len(own) :]
        weights = ("se.conv1.conv", "se.conv2.conv")
    else:
        places = [*range(len(own) - 1), len(own) - 1 + weighs]  # the weights stand before the last convolution
        names = [f"block.{place}." for place in places]
        weights = tuple(f"block.{len(own) - 1}.fc{number}" for number in (1, 2))
    pairs = []
    for number, (name, conv) in enumerate(zip(names, own, strict=True), start=1):
        pairs += _conv_bn(theirs + name, ours, code, conv, f"bn{number}")
    if weighs:
        pairs += [
            (f"{theirs}{name}.*", f"{ours}se.{part}.*") for name, part in zip(weights, ("conv_reduce", "conv_expand"))
        ]
    return pairs


def _conv_bn(theirs: str, ours: str, code: CODES, conv: str, bn: str) -> list[tuple[str, str]]:
    names = ("conv", "bn") if code == "mmseg" else ("0", "1")
    return [(f"{theirs}{name}.*", f"{ours}{part}.*") for name, part in zip(names, (conv, bn))]


def _name(channels: int) -> str:
    """Which MobileNetV3 by the channels of stage4. ValueError: none of ours."""
    known = {960: "mobilenetv3_large_100", 576: "mobilenetv3_small_100"}
    if channels not in known:
        raise ValueError(f"the MobileNetV3 of this checkpoint ends with {channels} channels; ours with 960 or 576")
    return known[channels]


def _described(arrangement: CODES, classifier: str, state: dict[str, Tensor]) -> Described:
    width, channels = _projection(state).shape[:2]
    args = {"backbone": _name(channels), "arrangement": arrangement, "width": width, "norm_eps": 1e-3}
    args |= {"norm_momentum": 0.01 if arrangement == "torchvision" else 0.1, "align_corners": False}
    return Described("lraspp", len(state[classifier]), args)


def _projection(state: dict[str, Tensor]) -> Tensor:
    """The 1x1 that reads stage4, in whose names ever."""
    return next(state[key] for key in (*PROJECTIONS.values(), "project.conv.weight") if key in state)


def _renaming(code: CODES, head: list[tuple[str, str]], state: dict[str, Tensor]) -> Renaming:
    name = _name(_projection(state).shape[1])
    return Renaming(mobilenetv3_pairs(name, code, "backbone.", "backbone.") + head)


PROJECTIONS = {"torchvision": "classifier.cbr.0.weight", "mmseg": "decode_head.aspp_conv.conv.weight"}
TORCHVISION_HEAD = [
    *conv_bn("classifier.cbr", "project"),
    ("classifier.scale.1.*", "gate.0.*"),
    ("classifier.low_classifier.*", "low_classifier.*"),
    ("classifier.high_classifier.*", "classifier.*"),
]
MMSEG_HEAD = [
    ("decode_head.aspp_conv.*", "project.*"),
    ("decode_head.image_pool.1.conv.*", "gate.0.*"),
    ("decode_head.conv_up_input.*", "refine.*"),
    ("decode_head.convs.conv#.*", "levels.#.*"),
    ("decode_head.conv_ups.conv_up#.*", "fuse.#.*"),
    ("decode_head.conv_seg.*", "classifier.*"),
]
TORCHVISION = NetworkLayout(
    "torchvision",
    (PROJECTIONS["torchvision"],),
    "low_classifier.weight",
    functools.partial(_renaming, "torchvision", TORCHVISION_HEAD),
    functools.partial(_described, "torchvision", "classifier.high_classifier.weight"),
)
MMSEG = NetworkLayout(
    "mmsegmentation",
    (PROJECTIONS["mmseg"],),
    "refine.weight",
    functools.partial(_renaming, "mmseg", MMSEG_HEAD),
    functools.partial(_described, "mmseg", "decode_head.conv_seg.weight"),
)


def norm_eps(state: dict[str, Tensor]) -> float | None:
    """What the batch norms of MobileNetV3 add to variances in torchvision and mmpretrain; None: another file."""
    marks = ("features.1.block.0.0.weight", "layer1.depthwise_conv.conv.weight")
    return 1e-3 if any(key.endswith(marks) for key in state) else None


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """torchvision's ImageNet weights of MobileNetV3 under timm's names, None: another file."""
    for name, stages in STAGES.items():
        last = f"features.{1 + sum(count for count, _ in stages)}.0.weight"
        if last in state and "features.1.block.0.0.weight" in state:
            kept = {key: value for key, value in state.items() if not key.startswith("classifier.")}
            return Renaming(mobilenetv3_pairs(name, "torchvision", "features.", "")).to_ours(kept)
    return None
