"""Names of the entries of ResNets and MobileNetV2s in the codes that have them, and which of ours a file holds."""

import re
from typing import Literal

from torch import Tensor

# code -> (theirs, ours) of a ResNet's stem, as every code names the blocks alike; ours is timm's: a deep one is a
# sequence under conv1 with its last norm in bn1
STEMS = {
    "plain": [("conv1.weight", "conv1.weight"), ("bn1.*", "bn1.*")],
    "mmseg": [("stem.7.*", "bn1.*"), ("stem.#.*", "conv1.#.*")],
    "cirkd": [
        ("conv1.*", "conv1.0.*"),
        ("bn1.*", "conv1.1.*"),
        ("conv2.*", "conv1.3.*"),
        ("bn2.*", "conv1.4.*"),
        ("conv3.*", "conv1.6.*"),
        ("bn3.*", "bn1.*"),
    ],
}
# (bottleneck, blocks of layer3) -> name
RESNETS = {(False, 2): "resnet18", (False, 6): "resnet34", (True, 6): "resnet50", (True, 23): "resnet101"}

# code -> its names of a MobileNetV2's layers: convolution and norm of the first; what precedes those of a block, which
# is the `number`-th or the `index`-th of a stage, itself the i-th from 0 and the n-th from 1; depthwise, norm,
# pointwise, norm of the first block, which expands nothing; expansion, norm, depthwise, norm, projection, norm
MOBILENETV2 = {
    "ours": (
        ("conv_stem", "bn1"),
        "blocks.{i}.{index}.",
        ("conv_dw", "bn1", "conv_pw", "bn2"),
        ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
    ),
    "mmseg": (
        ("conv1.conv", "conv1.bn"),
        "layer{n}.{index}.",
        ("conv.0.conv", "conv.0.bn", "conv.1.conv", "conv.1.bn"),
        ("conv.0.conv", "conv.0.bn", "conv.1.conv", "conv.1.bn", "conv.2.conv", "conv.2.bn"),
    ),
    # CIRKD, DIST, AICSD and the ImageNet files they start from
    "flat": (
        ("features.0.0", "features.0.1"),
        "features.{number}.",
        ("conv.0", "conv.1", "conv.3", "conv.4"),
        ("conv.0", "conv.1", "conv.3", "conv.4", "conv.6", "conv.7"),
    ),
    # torchvision
    "nested": (
        ("features.0.0", "features.0.1"),
        "features.{number}.",
        ("conv.0.0", "conv.0.1", "conv.1", "conv.2"),
        ("conv.0.0", "conv.0.1", "conv.1.0", "conv.1.1", "conv.2", "conv.3"),
    ),
}
BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # of each stage
# its last convolution in all codes; in the flat style features.17.conv.2 is a ReLU, so a file has one of these at most
LAST = ("layer7.0.conv.2.conv", "features.17.conv.6", "features.17.conv.2", "blocks.6.0.conv_pwl")
# channels of the last block -> name
MOBILENETS = {112: "mobilenetv2_035", 160: "mobilenetv2_050", 240: "mobilenetv2_075", 320: "mobilenetv2_100"}


def resnet_pairs(
    stem: Literal["plain", "mmseg", "cirkd"], theirs: str = "backbone.", ours: str = "backbone."
) -> list[tuple[str, str]]:
    """(theirs, ours) for Renaming: torchvision's plain stem, mmsegmentation's deep one or CIRKD's deep one."""
    pairs = STEMS[stem] + [("layer#.#.*", "layer#.#.*")]
    return [(theirs + their_key, ours + our_key) for their_key, our_key in pairs]


def resnet_name(state: dict[str, Tensor], prefix: str = "backbone.") -> str:
    """Which ResNet stands under the prefix, in whose names ever. ValueError: none of ours."""
    blocks = {found[1] for key in state if (found := re.match(re.escape(prefix) + r"layer3\.(\d+)\.", key))}
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    if (bottleneck, len(blocks)) not in RESNETS:
        kind = "bottleneck" if bottleneck else "basic"
        raise ValueError(
            f"the ResNet of this checkpoint has {len(blocks)} {kind} blocks in layer3; "
            f"ours are {', '.join(RESNETS.values())}"
        )
    return RESNETS[bottleneck, len(blocks)]


def stem_of(state: dict[str, Tensor], prefix: str = "backbone.") -> str:
    """`plain`, `v1c` or `v1s`, in whose names ever; by the width of the first convolution of a deep stem."""
    first = state.get(f"{prefix}stem.0.weight", state.get(f"{prefix}conv1.0.weight"))
    if first is None and f"{prefix}conv3.weight" in state:
        first = state[f"{prefix}conv1.weight"]
    if first is None:
        return "plain"
    return "v1c" if first.shape[0] == 32 else "v1s"


def mobilenetv2_pairs(
    code: Literal["mmseg", "flat", "nested"], theirs: str = "backbone.", ours: str = "backbone."
) -> list[tuple[str, str]]:
    """(theirs, ours) for Renaming."""
    layers = zip(_mobilenetv2_layers(code), _mobilenetv2_layers("ours"), strict=True)
    return [(f"{theirs}{their_key}.*", f"{ours}{our_key}.*") for their_key, our_key in layers]


def _mobilenetv2_layers(code: str) -> list[str]:
    """A code's names of all layers, first to last."""
    stem, place, first, others = MOBILENETV2[code]
    layers = [*stem]
    blocks = [(stage, index) for stage, count in enumerate(BLOCKS) for index in range(count)]
    for number, (stage, index) in enumerate(blocks, start=1):
        prefix = place.format(i=stage, n=stage + 1, index=index, number=number)
        layers += [prefix + layer for layer in (others if stage else first)]
    return layers


def mobilenetv2_name(state: dict[str, Tensor], prefix: str = "backbone.") -> str:
    """Which MobileNetV2 stands under the prefix, in whose names ever. ValueError: none of ours."""
    keys = (f"{prefix}{name}.weight" for name in LAST)
    channels = next((len(state[key]) for key in keys if key in state), 0)
    if channels not in MOBILENETS:
        raise ValueError(
            f"the MobileNetV2 of this checkpoint ends with {channels} channels; "
            f"ours are {', '.join(f'{name} with {count}' for count, name in MOBILENETS.items())}"
        )
    return MOBILENETS[channels]
