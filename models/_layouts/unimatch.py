"""DeepLabV3+ files of UniMatch, which TriKD's code carries too."""

import torch
from torch import Tensor

from ._encoders import resnet_name
from ._layout import Described, Renaming, conv_bn

CODE = (
    "the layout unimatch (DeepLabV3+ in the arrangement unimatch, 256 wide, with an Xception-65 or a ResNet-50 or "
    "ResNet-101 with stem v1s for a backbone and no auxiliary head)"
)
LOW_LEVEL_WIDTH = 48
HEAD = [
    *conv_bn("head.b#", "aspp.branches.#"),
    *conv_bn("head.b4.gap", "aspp.image_pool.conv", 1, 2),
    *conv_bn("head.project", "aspp.project"),
    *conv_bn("reduce", "low_level"),
    *conv_bn("fuse", "decoder.0"),
    *conv_bn("fuse", "decoder.1", 3, 4),
    ("classifier.*", "classifier.*"),
]
# timm's names are theirs
RESNET = Renaming([*HEAD, *((f"backbone.{key}", f"backbone.{key}") for key in ("conv1.#.*", "bn1.*", "layer#.*"))])
XCEPTION_PAIRS = [("conv#.*", "conv#.*"), ("bn#.*", "bn#.*")]
XCEPTION_PAIRS += [(f"block{i + 1}.*", f"blocks.{i}.*") for i in range(20)]
XCEPTION = Renaming([*HEAD, *((f"backbone.{theirs}", f"backbone.{ours}") for theirs, ours in XCEPTION_PAIRS)])

# what tells their networks from others with the same keys
SHAPES = {
    "backbone.conv1.0.weight": (64, 3, 3, 3),
    "head.project.0.weight": (256, 5 * 256, 1, 1),
    "reduce.0.weight": (LOW_LEVEL_WIDTH, 256, 1, 1),
}


def fits(state: dict[str, Tensor]) -> bool:
    """Whether a file has these heads."""
    return {"head.b4.gap.1.weight", "reduce.0.weight", "fuse.0.weight"} <= state.keys()


def describe(state: dict[str, Tensor]) -> Described:
    """The network of a file; the published output stride is 16 (8 has the same tensors).

    Raises:
        ValueError: a backbone other than ResNet and Xception-65.
    """
    args = {"arrangement": "unimatch", "output_stride": 16, "dilation_rule": "timm"}
    if "backbone.block20.sepconv1.depthwise.weight" in state:
        args |= {"backbone": "xception65"}
    elif "backbone.layer1.0.conv1.weight" in state:
        args |= {"backbone": resnet_name(state, "backbone."), "stem": "v1s"}
    else:
        raise ValueError("a file of the layout unimatch can be read with a ResNet or Xception-65 backbone only")
    return Described("deeplabv3plus", len(state["classifier.weight"]), args)


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their keys as ours; their decoder reads the low level first, ours last."""
    table = XCEPTION if "backbone.block20.sepconv1.depthwise.weight" in state else RESNET
    ours = table.to_ours(state)
    ours["decoder.0.conv.weight"] = torch.roll(ours["decoder.0.conv.weight"], -LOW_LEVEL_WIDTH, dims=1)
    return ours


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our keys as theirs. ValueError: no DeepLabV3+ as theirs."""
    theirs = (XCEPTION if "backbone.blocks.19.sepconv1.depthwise.weight" in state else RESNET).write(state, CODE)
    wrong = [key for key, shape in SHAPES.items() if key in theirs and theirs[key].shape != shape]
    if wrong:
        raise ValueError(f"{CODE} has a {wrong[0]} of another shape than this network")
    theirs["fuse.0.weight"] = torch.roll(theirs["fuse.0.weight"], LOW_LEVEL_WIDTH, dims=1)
    return theirs


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Their Xception-65 file, which carries counters of its making beside the weights."""
    if "block20.sepconv1.depthwise.weight" not in state:
        return None
    kept = {key: value for key, value in state.items() if not any(part in key for part in ("itr", "tmp", "track"))}
    ours = Renaming(XCEPTION_PAIRS).to_ours(kept)
    return {key: value for key, value in ours.items() if not key.startswith("fc.")}
