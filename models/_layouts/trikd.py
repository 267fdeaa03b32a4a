"""Files of TriKD's released code: one of its three views, and the ImageNet files those start from."""

import math

from torch import Tensor

from ._layout import Described, Renaming

# TinyViT's names and timm's
TINYVIT = [
    ("patch_embed.seq.0.c.*", "patch_embed.conv1.conv.*"),
    ("patch_embed.seq.0.bn.*", "patch_embed.conv1.bn.*"),
    ("patch_embed.seq.2.c.*", "patch_embed.conv2.conv.*"),
    ("patch_embed.seq.2.bn.*", "patch_embed.conv2.bn.*"),
    ("layers.0.blocks.#.conv#.c.*", "stages.0.blocks.#.conv#.conv.*"),
    ("layers.#.blocks.#.local_conv.c.*", "stages.#.blocks.#.local_conv.conv.*"),
    ("layers.#.blocks.*", "stages.#.blocks.*"),
]
for _stage in range(3):  # there a stage ends with its downsampling, here the next one begins with it
    _theirs, _ours = f"layers.{_stage}.downsample.conv#", f"stages.{_stage + 1}.downsample.conv#"
    TINYVIT += [(f"{_theirs}.c.*", f"{_ours}.conv.*"), (f"{_theirs}.bn.*", f"{_ours}.bn.*")]

IMAGENET = Renaming(TINYVIT)
# decoder, neck, low_head and high_head have the same names, and so have the entries of ResNet and DeiT
VIEW = Renaming([(f"encoder.{theirs}", f"backbone.{ours}") for theirs, ours in TINYVIT] + [("encoder.*", "backbone.*")])

DECODER = "decoder.lateral_convs.0.conv_atten.weight"
TINYVIT_VARIANTS = {(64, 160): "5m", (64, 256): "11m", (96, 384): "21m"}  # by the widths of stage1 and stage3
DEIT_VARIANTS = {192: "tiny", 384: "small", 768: "base"}


def fits(state: dict[str, Tensor]) -> bool:
    """Whether it is one of the three views: an encoder under that name and the decoder of frequency attention."""
    return DECODER in state and any(key.startswith("encoder.") for key in state)


def describe(state: dict[str, Tensor]) -> Described:
    """The view, from its keys and shapes. ValueError: an encoder of another kind or size than those there are."""
    widths = [state[f"decoder.down_convs.{i}.weight"].shape for i in range(3)]  # (shallow, deep, 1, 1)
    args: dict = {"widths": (*(shape[0] for shape in widths), widths[2][1])}
    if "encoder.patch_embed.seq.0.c.weight" in state:
        model = "trikd_tinyvit"
        args |= _tinyvit(state)
    elif "encoder.pos_embed" in state:
        model = "trikd_deit"
        args |= _deit(state)
    elif "encoder.conv1.6.weight" in state and "encoder.layer1.0.conv3.weight" in state:
        model = "trikd_resnet"
        args["backbone"] = "resnet101" if "encoder.layer3.22.conv1.weight" in state else "resnet50"
    else:
        raise ValueError("the encoder of this file is neither a TinyViT, a ResNet of bottlenecks nor a DeiT")
    return Described(model, len(state["decoder.cls_seg.1.bias"]), args)


def _tinyvit(state: dict[str, Tensor]) -> dict:
    stages = [f"encoder.layers.{n}.blocks.0.attn." for n in (1, 2, 3)]
    width = len(state["encoder.patch_embed.seq.2.bn.weight"]), len(state[stages[1] + "norm.weight"])
    if width not in TINYVIT_VARIANTS:
        raise ValueError(f"no TinyViT of TriKD is {width[0]} and {width[1]} channels wide in its stages 1 and 3")
    return {
        "variant": TINYVIT_VARIANTS[width],
        "windows": tuple(math.isqrt(state[stage + "attention_biases"].shape[1]) for stage in stages),
        "distill_heads": "low_head.weight" in state,
    }


def _deit(state: dict[str, Tensor]) -> dict:
    _, rows, width = state["encoder.pos_embed"].shape
    side = math.isqrt(rows - 1)
    if width not in DEIT_VARIANTS or side**2 != rows - 1:
        raise ValueError(
            f"no DeiT of TriKD has {rows} positions of {width} channels: that takes a class token and a square grid of "
            f"{', '.join(map(str, DEIT_VARIANTS))} channels"
        )
    return {
        "variant": DEIT_VARIANTS[width],
        "image_size": (16 * side, 16 * side),
        "neck_scales": (0.5, 1.0, 2.0, 4.0),
        "neck_width": state[DECODER].shape[1],
    }


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their names to ours."""
    return VIEW.to_ours(state)


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names to theirs.

    Raises:
        ValueError: another network than the three views, or a student without the two heads the released one has.
    """
    if DECODER not in state:
        raise ValueError("the layout trikd has names for trikd_tinyvit, trikd_resnet and trikd_deit alone")
    if "backbone.stages.0.blocks.0.conv1.conv.weight" in state and "low_head.weight" not in state:
        raise ValueError(
            "the released student has the heads low_head and high_head: write one built with distill_heads: true"
        )
    return VIEW.to_theirs(state)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """TinyViT's own ImageNet file. Those of DeiT and of the ResNet have the names of our encoders."""
    if "patch_embed.seq.0.c.weight" not in state:
        return None
    found = IMAGENET.to_ours(
        {key: value for key, value in state.items() if not key.startswith(("head.", "norm_head."))}
    )
    # the original keeps an index beside each table of biases
    return {key: value for key, value in found.items() if not key.endswith("attention_bias_idxs")}
