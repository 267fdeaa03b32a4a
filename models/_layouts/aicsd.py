"""DeepLabV3+ files of AICSD and its ancestors: Heo et al.'s overhaul and pytorch-deeplab-xception."""

import re

from torch import Tensor

from ._described import Described
from ._mobilenetv2 import mobilenetv2_name, mobilenetv2_pairs
from ._renaming import Renaming, conv_bn
from ._resnet import resnet_name, resnet_pairs

HEAD = [
    *(row for i in range(4) for row in conv_bn(f"aspp.aspp{i + 1}", f"aspp.branches.{i}", "atrous_conv", "bn")),
    *conv_bn("aspp.global_avg_pool", "aspp.image_pool.conv", 1, 2),
    *conv_bn("aspp", "aspp.project", "conv1", "bn1"),
    *conv_bn("decoder", "low_level", "conv1", "bn1"),
    *conv_bn("decoder.last_conv", "decoder.0"),
    *conv_bn("decoder.last_conv", "decoder.1", 4, 5),
    ("decoder.last_conv.8.*", "classifier.*"),
]
RESNET = Renaming([*HEAD, *resnet_pairs("plain")])
MOBILENETV2 = Renaming([*HEAD, *mobilenetv2_pairs("flat")])
# such a file holds the MobileNetV2 a second time, in two halves
ALIASES = ("backbone.low_level_features.", "backbone.high_level_features.")


def fits(state: dict[str, Tensor]) -> bool:
    """Whether a file has these heads."""
    return "aspp.aspp1.atrous_conv.weight" in state and "decoder.last_conv.8.weight" in state


def describe(state: dict[str, Tensor]) -> Described:
    """The network of a file; the published output stride is 16 (8 has the same tensors).

    Raises:
        ValueError: a backbone other than ResNet and MobileNetV2.
    """
    if "backbone.features.0.0.weight" in state:
        backbone = mobilenetv2_name(state)
    elif "backbone.layer1.0.conv1.weight" in state:
        backbone = resnet_name(state, "backbone.")
    else:
        raise ValueError("a file of the layout aicsd can be read with a ResNet or MobileNetV2 backbone only")
    args = {"arrangement": "aicsd", "backbone": backbone, "output_stride": 16, "dilation_rule": "aicsd"}
    return Described("deeplabv3plus", len(state["decoder.last_conv.8.weight"]), args)


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their keys as ours; should the two copies of MobileNetV2 differ, the later entry counts, as in their code."""
    table = MOBILENETV2 if "backbone.features.0.0.weight" in state else RESNET
    once = {re.sub(r"^backbone\.(low|high)_level_features\.", "backbone.features.", key): key for key in state}
    return table.to_ours({key: state[last] for key, last in once.items()})


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our keys as theirs.

    Raises:
        ValueError: no DeepLabV3+ as theirs.
    """
    table = MOBILENETV2 if "backbone.conv_stem.weight" in state else RESNET
    theirs = table.to_theirs(state)
    unknown = [key for key in theirs if not table.knows(key)]
    if unknown or theirs["aspp.conv1.weight"].shape != (256, 5 * 256, 1, 1):
        raise ValueError(
            "the layout aicsd has keys for DeepLabV3+ in the arrangement aicsd alone, 256 wide, with a MobileNetV2 or "
            f"plain ResNet backbone and no auxiliary head{f'; none for {unknown[0]}' if unknown else ''}"
        )
    for key in [key for key in theirs if key.startswith("backbone.features.")]:
        place = key.removeprefix("backbone.features.")
        theirs[ALIASES[int(place.split(".")[0]) > 3] + place] = theirs[key]
    return theirs


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Their MobileNetV2 file: the names are flat, unlike torchvision's."""
    if "features.1.conv.3.weight" not in state:
        return None
    kept = {key: value for key, value in state.items() if not key.startswith(("features.18.", "classifier."))}
    return Renaming(mobilenetv2_pairs("flat", theirs="", ours="")).to_ours(kept)
