"""DeepLabV3+ files of AICSD and its ancestors: Heo et al.'s overhaul and pytorch-deeplab-xception."""

import re

from torch import Tensor

from ._encoders import mobilenetv2_name, mobilenetv2_pairs, resnet_name, resnet_pairs
from ._layout import Described, Renaming, conv_bn

CODE = (
    "the layout aicsd (DeepLabV3+ in the arrangement aicsd, 256 wide, with a MobileNetV2 or plain ResNet backbone and "
    "no auxiliary head)"
)
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
    """Our keys as theirs. ValueError: no DeepLabV3+ as theirs."""
    theirs = (MOBILENETV2 if "backbone.conv_stem.weight" in state else RESNET).write(state, CODE)
    if theirs["aspp.conv1.weight"].shape != (256, 5 * 256, 1, 1):
        raise ValueError(f"{CODE} has a pyramid of another shape than this network")
    for key in [key for key in theirs if key.startswith("backbone.features.")]:
        place = key.removeprefix("backbone.features.")
        theirs[ALIASES[int(place.split(".")[0]) > 3] + place] = theirs[key]
    return theirs
