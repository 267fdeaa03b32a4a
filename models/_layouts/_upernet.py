"""Names of the UPer head's entries in mmsegmentation and CIRKD."""

from typing import Literal

from torch import Tensor

from ._renaming import conv_bn

Code = Literal["mmseg", "cirkd"]

# (theirs, ours) for Renaming; backbone and auxiliary head are named as in the code's other networks
HEAD = {
    "mmseg": [
        ("decode_head.psp_modules.#.1.*", "head.pyramid.levels.#.conv.*"),
        ("decode_head.bottleneck.*", "head.pyramid.project.*"),
        ("decode_head.lateral_convs.#.*", "head.laterals.#.*"),
        ("decode_head.fpn_convs.#.*", "head.outputs.#.*"),
        ("decode_head.fpn_bottleneck.*", "head.fuse.*"),
        ("decode_head.conv_seg.*", "classifier.*"),
    ],
    "cirkd": [
        *conv_bn("head.ppm_conv.#", "head.pyramid.levels.#"),
        *conv_bn("head.ppm_last_conv", "head.pyramid.project"),
        *conv_bn("head.fpn_in.#", "head.laterals.#"),
        *conv_bn("head.fpn_out.#.0", "head.outputs.#"),
        *conv_bn("head.conv_last.0", "head.fuse"),
        ("head.conv_last.1.*", "classifier.*"),
    ],
}
# the width of the head is the output of this convolution
FUSE = {"mmseg": "decode_head.fpn_bottleneck.conv.weight", "cirkd": "head.conv_last.0.0.weight"}

# what a code's networks have beside their weights
IMPLIED = {
    "mmseg": {"arrangement": "mmseg", "output_stride": 32, "dilation_rule": "mmseg"},
    "cirkd": {
        "arrangement": "cirkd",
        "output_stride": 8,
        "dilation_rule": "cirkd",
        "dropout_kind": "elements",
        "head_init": "torch",
        "align_corners": True,
    },
}


def arguments(state: dict[str, Tensor], code: Code) -> dict:
    """Arguments of our UPerNet that these entries of a code tell or imply; backbone and auxiliary head left out."""
    return {"width": state[FUSE[code]].shape[0]} | IMPLIED[code]
