"""Names of MobileNetV2's entries: by stage and block, or by the running number of the block."""

from typing import Literal, NamedTuple

from torch import Tensor


class Style(NamedTuple):
    """How one code names the entries.

    Attributes:
        stem: convolution and norm of the first layer. place: prefix of a block, by stage (from 1) and index in it, or
            by its running number. first: layers of the first block, which expands nothing: depthwise, norm, pointwise,
            norm. others: expansion, norm, depthwise, norm, projection, norm.
    """

    stem: tuple[str, ...]
    place: str
    first: tuple[str, ...]
    others: tuple[str, ...]


STYLES = {
    "mmseg": Style(
        ("conv1.conv", "conv1.bn"),
        "layer{stage}.{index}.",
        ("conv.0.conv", "conv.0.bn", "conv.1.conv", "conv.1.bn"),
        ("conv.0.conv", "conv.0.bn", "conv.1.conv", "conv.1.bn", "conv.2.conv", "conv.2.bn"),
    ),
    # CIRKD, DIST, AICSD and the ImageNet files they start from
    "flat": Style(
        ("features.0.0", "features.0.1"),
        "features.{number}.",
        ("conv.0", "conv.1", "conv.3", "conv.4"),
        ("conv.0", "conv.1", "conv.3", "conv.4", "conv.6", "conv.7"),
    ),
    # torchvision
    "nested": Style(
        ("features.0.0", "features.0.1"),
        "features.{number}.",
        ("conv.0.0", "conv.0.1", "conv.1", "conv.2"),
        ("conv.0.0", "conv.0.1", "conv.1.0", "conv.1.1", "conv.2", "conv.3"),
    ),
}
OURS = Style(
    ("conv_stem", "bn1"),
    "blocks.{stage}.{index}.",
    ("conv_dw", "bn1", "conv_pw", "bn2"),
    ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
)
BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # of each stage

# channels of the last block -> name
NAMES = {112: "mobilenetv2_035", 160: "mobilenetv2_050", 240: "mobilenetv2_075", 320: "mobilenetv2_100"}


def mobilenetv2_pairs(
    style: Literal["mmseg", "flat", "nested"], theirs: str = "backbone.", ours: str = "backbone."
) -> list[tuple[str, str]]:
    """(theirs, ours) for Renaming."""
    names = STYLES[style]
    pairs = list(zip(names.stem, OURS.stem))
    number = 0
    for stage, count in enumerate(BLOCKS):
        for index in range(count):
            number += 1
            place = names.place.format(stage=stage + 1, index=index, number=number)
            our_place = OURS.place.format(stage=stage, index=index)
            layers = zip(*((names.first, OURS.first) if stage == 0 else (names.others, OURS.others)))
            pairs += [(place + their_layer, our_place + our_layer) for their_layer, our_layer in layers]
    return [(f"{theirs}{their_key}.*", f"{ours}{our_key}.*") for their_key, our_key in pairs]


def mobilenetv2_name(state: dict[str, Tensor], prefix: str = "backbone.") -> str:
    """Which MobileNetV2 stands under the prefix, in whose names ever. ValueError: none of ours."""
    last = (
        "layer7.0.conv.2.conv",
        "features.17.conv.6",
        "features.17.conv.2",
        "blocks.6.0.conv_pwl",
    )
    # in the flat style features.17.conv.2 is a ReLU: at most one of these is there
    channels = next((state[f"{prefix}{name}.weight"].shape[0] for name in last if f"{prefix}{name}.weight" in state), 0)
    if channels not in NAMES:
        raise ValueError(
            f"the MobileNetV2 of this checkpoint ends with {channels} channels; "
            f"ours are {', '.join(f'{name} with {count}' for count, name in NAMES.items())}"
        )
    return NAMES[channels]
