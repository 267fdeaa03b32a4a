"""Keys of the MobileNetV3 and MobileViT encoders in the files of CIRKD's code and in the ImageNet files it starts from.

CIRKD: github.com/winycg/CIRKD; both encoders there have the module names of OpenMMLab's.
"""

from torch import Tensor

from ._renaming import Renaming

# blocks per group of timm's `blocks`, less the last 1x1 convolution: their layers count through all groups
MOBILENETV3_GROUPS = {"mobilenetv3_small_100": (1, 2, 3, 2, 3), "mobilenetv3_large_100": (1, 2, 3, 4, 2, 3)}
# width of the last 1x1 convolution -> name
MOBILEVIT_NAMES = {320: "mobilevit_xxs", 384: "mobilevit_xs", 640: "mobilevit_s"}
# what an ImageNet file holds besides the encoder
CLASSIFIERS = ("head.", "classifier.", "fc.")

# of a block that expands, and of the first, which does not
EXPANDING = {"expand_conv.conv": "conv_pw", "expand_conv.bn": "bn1", "depthwise_conv.conv": "conv_dw",
             "depthwise_conv.bn": "bn2", "linear_conv.conv": "conv_pwl", "linear_conv.bn": "bn3"}  # fmt: skip
PLAIN = {"depthwise_conv.conv": "conv_dw", "depthwise_conv.bn": "bn1", "linear_conv.conv": "conv_pw",
         "linear_conv.bn": "bn2"}  # fmt: skip
SQUEEZE = {"se.conv1.conv": "se.conv_reduce", "se.conv2.conv": "se.conv_expand"}

MOBILEVIT_PAIRS = [
    ("stem.*", "stem.*"),
    # the norm after the two, four and three transformer blocks is numbered as one block more
    ("layers.2.1.global_rep.2.*", "stages.2.1.norm.*"),
    ("layers.3.1.global_rep.4.*", "stages.3.1.norm.*"),
    ("layers.4.1.global_rep.3.*", "stages.4.1.norm.*"),
    ("layers.#.#.conv.0.*", "stages.#.#.conv1_1x1.*"),
    ("layers.#.#.conv.1.*", "stages.#.#.conv2_kxk.*"),
    ("layers.#.#.conv.2.*", "stages.#.#.conv3_1x1.*"),
    ("layers.#.#.local_rep.0.*", "stages.#.#.conv_kxk.*"),
    ("layers.#.#.local_rep.1.conv.*", "stages.#.#.conv_1x1.*"),
    ("layers.#.#.global_rep.#.ln1.*", "stages.#.#.transformer.#.norm1.*"),
    ("layers.#.#.global_rep.#.attn.attn.in_proj_*", "stages.#.#.transformer.#.attn.qkv.*"),
    ("layers.#.#.global_rep.#.attn.attn.out_proj.*", "stages.#.#.transformer.#.attn.proj.*"),
    ("layers.#.#.global_rep.#.ln2.*", "stages.#.#.transformer.#.norm2.*"),
    ("layers.#.#.global_rep.#.ffn.layers.0.0.*", "stages.#.#.transformer.#.mlp.fc1.*"),
    ("layers.#.#.global_rep.#.ffn.layers.1.*", "stages.#.#.transformer.#.mlp.fc2.*"),
    ("layers.#.#.conv_proj.*", "stages.#.#.conv_proj.*"),
    ("layers.#.#.conv_fusion.*", "stages.#.#.conv_fusion.*"),
    ("conv_1x1_exp.*", "final_conv.*"),
]


def backbone_name(state: dict[str, Tensor], prefix: str = "pretrained.") -> str | None:
    """Our name of the MobileNetV3 or MobileViT whose keys in their code follow a prefix, None if it has neither."""
    if f"{prefix}layer1.depthwise_conv.conv.weight" in state:
        return "mobilenetv3_small_100" if f"{prefix}layer12.conv.weight" in state else "mobilenetv3_large_100"
    last = state.get(f"{prefix}conv_1x1_exp.conv.weight")
    return None if last is None else MOBILEVIT_NAMES.get(len(last))


def pairs(name: str, theirs: str = "pretrained.", ours: str = "backbone.") -> list[tuple[str, str]]:
    """The rows of a Renaming for one encoder.

    Args:
        name: what backbone_name gave. theirs, ours: what stands before the encoder's keys.
    """
    rows = _mobilenetv3_pairs(MOBILENETV3_GROUPS[name]) if name in MOBILENETV3_GROUPS else MOBILEVIT_PAIRS
    return [(theirs + their_key, ours + our_key) for their_key, our_key in rows]


def _mobilenetv3_pairs(groups: tuple[int, ...]) -> list[tuple[str, str]]:
    rows = [("layer0.conv.*", "conv_stem.*"), ("layer0.bn.*", "bn1.*")]
    layer = 1
    for group, blocks in enumerate(groups):
        for block in range(blocks):
            parts = (PLAIN if layer == 1 else EXPANDING) | SQUEEZE
            rows += [(f"layer{layer}.{part}.*", f"blocks.{group}.{block}.{our}.*") for part, our in parts.items()]
            layer += 1
    last = f"blocks.{len(groups)}.0"
    return rows + [(f"layer{layer}.conv.*", f"{last}.conv.*"), (f"layer{layer}.bn.*", f"{last}.bn1.*")]


def imagenet(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The encoder in one of the ImageNet files CIRKD starts from, under our names; None for any other file.

    Those files come from OpenMMLab's classifiers: the keys stand behind `backbone.` or behind nothing, and the
    attention of MobileViT has other names there.
    """
    prefix = next((prefix for prefix in ("backbone.", "") if backbone_name(state, prefix)), None)
    encoder = {key: value for key, value in state.items() if not key.startswith(CLASSIFIERS)}
    if prefix is None or not all(key.startswith(prefix) for key in encoder):
        return None
    attention = [
        (f"{prefix}layers.#.#.global_rep.#.attn.{part}.*", f"stages.#.#.transformer.#.attn.{part}.*")
        for part in ("qkv", "proj")
    ]
    return Renaming(attention + pairs(backbone_name(state, prefix), prefix, "")).to_ours(encoder)
