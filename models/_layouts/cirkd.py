"""Checkpoints of CIRKD (both versions) and of DIST, which has its networks: pretrained, head, auxlayer."""

from torch import Tensor

from . import _segformer
from ._encoders import mobilenetv2_name, mobilenetv2_pairs, resnet_name, resnet_pairs, stem_of
from ._layout import Described, Renaming, conv_bn, model_of

CODE = "CIRKD"
UNKNOWN = f"{CODE} has no such network"

HEADS = {
    "deeplabv3": [
        *conv_bn("head.aspp.b0", "aspp.branches.0"),
        *conv_bn("head.aspp.b#.block", "aspp.branches.#"),
        *conv_bn("head.aspp.b4.gap", "aspp.image_pool.conv", 1, 2),
        *conv_bn("head.aspp.project", "aspp.project"),
        *conv_bn("head.block", "refine"),
        ("head.block.4.*", "classifier.*"),
    ],
    "pspnet": [
        *(row for i in range(4) for row in conv_bn(f"head.psp.conv{i + 1}", f"pyramid.levels.{i}.conv")),
        *conv_bn("head.block", "pyramid.project"),
        ("head.classifier.*", "classifier.*"),
    ],
    "upernet": [
        *conv_bn("head.ppm_conv.#", "head.pyramid.levels.#"),
        *conv_bn("head.ppm_last_conv", "head.pyramid.project"),
        *conv_bn("head.fpn_in.#", "head.laterals.#"),
        *conv_bn("head.fpn_out.#.0", "head.outputs.#"),
        *conv_bn("head.conv_last.0", "head.fuse"),
        ("head.conv_last.1.*", "classifier.*"),
    ],
}
AUX = [*conv_bn("auxlayer.block", "aux_head.conv"), ("auxlayer.block.4.*", "aux_head.classifier.*")]

# entries only this network has, in their names and in ours
MARKS = {
    "deeplabv3": ("head.aspp.b0.0.weight", "refine.conv.weight"),
    "pspnet": ("head.psp.conv1.0.weight", "pyramid.project.conv.weight"),
    "upernet": ("head.conv_last.0.0.weight", "head.pyramid.levels.0.bn.weight"),
}
CLASSIFIERS = {
    "deeplabv3": "head.block.4.weight",
    "pspnet": "head.classifier.weight",
    "upernet": "head.conv_last.1.weight",
}

# MobileNetV3 and MobileViT have the module names of OpenMMLab's there. Blocks per group of timm's `blocks`, less the
# last 1x1 convolution: their layers count through all groups
MOBILENETV3_GROUPS = {"mobilenetv3_small_100": (1, 2, 3, 2, 3), "mobilenetv3_large_100": (1, 2, 3, 4, 2, 3)}
# width of the last 1x1 convolution -> name
MOBILEVIT_NAMES = {320: "mobilevit_xxs", 384: "mobilevit_xs", 640: "mobilevit_s"}
# what an ImageNet file of these holds besides the encoder
UNREAD = ("head.", "classifier.", "fc.")

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


def fits(state: dict[str, Tensor]) -> bool:
    """Whether these are the keys of a network of CIRKD or DIST."""
    if _segformer.CIRKD.fits(state):
        return True
    return _family(state) is not None and any(marks[0] in state for marks in MARKS.values())


def describe(state: dict[str, Tensor]) -> Described:
    """The network with CIRKD's strides, dilations and dropout; its images are BGR less a mean.

    Raises:
        ValueError: a backbone this project does not have.
    """
    if _segformer.CIRKD.fits(state):
        return _segformer.CIRKD.describe(state)
    model, family = model_of(state, MARKS, "theirs", UNKNOWN), _family(state)
    args: dict = {"dilation_rule": "cirkd", "output_stride": 8, "align_corners": True, "head_init": "torch"}
    args |= {"dropout": 0.1, "dropout_kind": "elements"}
    if family == "resnet":
        args |= {"backbone": resnet_name(state, "pretrained."), "stem": stem_of(state, "pretrained.")}
    elif family == "mobilenetv2":
        args["backbone"] = mobilenetv2_name(state, "pretrained.net.")
    else:
        args["backbone"] = family
    if model == "upernet":
        args |= {"width": len(state["head.conv_last.0.0.weight"]), "arrangement": "cirkd"}
    elif model == "deeplabv3":
        args |= {"projection": "1x1", "width": state["head.block.0.weight"].shape[0]}
    else:
        args |= {"width": state["head.block.0.weight"].shape[0], "level_width": len(state["head.psp.conv1.0.weight"])}
    aux = state.get("auxlayer.block.0.weight")
    args |= {"aux": False} if aux is None else {"aux": True, "aux_width": len(aux)}
    return Described(model, state[CLASSIFIERS[model]].shape[0], args, normalize="cirkd")


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their entries under our names."""
    if _segformer.CIRKD.fits(state):
        return _segformer.CIRKD.read(state)
    model = model_of(state, MARKS, "theirs", UNKNOWN)
    return _renaming(model, _family(state), stem_of(state, "pretrained.")).to_ours(state)


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our entries under their names. ValueError: a network they do not have.

    Dilations and align_corners are no entries: only networks built as `describe` says compute the same there.
    """
    if _segformer.is_ours(state):
        return _segformer.CIRKD.write(state)
    model, family, stem = model_of(state, MARKS, "ours", UNKNOWN), _our_family(state), stem_of(state)
    if family != "resnet" and "aux_head.classifier.weight" in state:
        raise ValueError(f"{CODE}'s networks on {family} have no auxiliary head: set aux: false")
    if family == "resnet" and stem == "v1c":
        raise ValueError(f"{CODE}'s deep stem is 64, 64, 128 wide: stem must be v1s, not v1c")
    if model == "pspnet":
        level, in_channels = state["pyramid.levels.0.conv.conv.weight"].shape[:2]
        if level * 4 != in_channels:
            raise ValueError(f"{CODE}'s PSPNet has levels of {in_channels // 4} channels: set level_width to that")
    return _renaming(model, family, stem).write(state, CODE)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """CIRKD's ImageNet weights: deep-stem ResNets, MobileNetV2, MobileNetV3, MobileViT."""
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier.", "features.18."))}
    if "conv3.weight" in state and "layer1.0.conv1.weight" in state:
        return Renaming(resnet_pairs("cirkd", "", "")).to_ours(state)
    if "features.17.conv.6.weight" in state:
        return Renaming(mobilenetv2_pairs("flat", "", "")).to_ours(state)
    return mobile_backbone(state)


def _family(state: dict[str, Tensor]) -> str | None:
    """resnet, mobilenetv2 or the whole name of another backbone under `pretrained.`; None: none of theirs."""
    if "pretrained.layer1.0.conv1.weight" in state:
        return "resnet"
    if "pretrained.net.features.0.0.weight" in state:
        return "mobilenetv2"
    return mobile_name(state)


def _our_family(state: dict[str, Tensor]) -> str:
    """The same of one of our states."""
    if "backbone.layer1.0.conv1.weight" in state:
        return "resnet"
    if "backbone.blocks.6.0.conv_pwl.weight" in state:
        return "mobilenetv2"
    for name, groups in MOBILENETV3_GROUPS.items():
        if f"backbone.blocks.{len(groups)}.0.conv.weight" in state:
            return name
    last = state.get("backbone.final_conv.conv.weight")
    if last is not None and len(last) in MOBILEVIT_NAMES:
        return MOBILEVIT_NAMES[len(last)]
    raise ValueError(
        f"{CODE} has ResNet, MobileNetV2, MobileNetV3 and MobileViT only, and this backbone is none of them"
    )


def _renaming(model: str, family: str, stem: str) -> Renaming:
    """The table of a network."""
    if family == "resnet":
        pairs = resnet_pairs("plain" if stem == "plain" else "cirkd", "pretrained.")
    elif family == "mobilenetv2":
        pairs = mobilenetv2_pairs("flat", "pretrained.net.")
    else:
        pairs = mobile_pairs(family)
    return Renaming(pairs + HEADS[model] + AUX)


def mobile_name(state: dict[str, Tensor], prefix: str = "pretrained.") -> str | None:
    """Our name of the MobileNetV3 or MobileViT whose keys in their code follow a prefix, None if it has neither."""
    if f"{prefix}layer1.depthwise_conv.conv.weight" in state:
        return "mobilenetv3_small_100" if f"{prefix}layer12.conv.weight" in state else "mobilenetv3_large_100"
    last = state.get(f"{prefix}conv_1x1_exp.conv.weight")
    return None if last is None else MOBILEVIT_NAMES.get(len(last))


def mobile_pairs(name: str, theirs: str = "pretrained.", ours: str = "backbone.") -> list[tuple[str, str]]:
    """The rows of a Renaming for one encoder.

    Args:
        name: what mobile_name gave. theirs, ours: what stands before the encoder's keys.
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


# what OpenMMLab's MobileViTs were trained on, as Apple's: grey levels over 255, blue first
MOBILEVIT_IMAGES = {"mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0], "order": "bgr"}


def is_mobilevit(state: dict[str, Tensor]) -> bool:
    """Whether it is one of OpenMMLab's files of a MobileViT alone."""
    prefix = _mobile_prefix(state)
    return prefix is not None and mobile_name(state, prefix) in MOBILEVIT_NAMES.values()


def _mobile_prefix(state: dict[str, Tensor]) -> str | None:
    """What the keys of one of these files stand behind, None for any other file."""
    return next((prefix for prefix in ("backbone.", "") if mobile_name(state, prefix)), None)


def mobile_backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The encoder in one of the ImageNet files CIRKD starts from, under our names; None for any other file.

    Those files come from OpenMMLab's classifiers: the keys stand behind `backbone.` or behind nothing, and the
    attention of MobileViT has other names there.
    """
    prefix = _mobile_prefix(state)
    encoder = {key: value for key, value in state.items() if not key.startswith(UNREAD)}
    if prefix is None or not all(key.startswith(prefix) for key in encoder):
        return None
    attention = [
        (f"{prefix}layers.#.#.global_rep.#.attn.{part}.*", f"stages.#.#.transformer.#.attn.{part}.*")
        for part in ("qkv", "proj")
    ]
    return Renaming(attention + mobile_pairs(mobile_name(state, prefix), prefix, "")).to_ours(encoder)
