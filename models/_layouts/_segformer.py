"""Names of SegFormer's entries in the codes that have it, and the few tensors they store in another form.

Codes: `nvidia` (the paper's own), `cirkd` (the encoder's names are those of the paper's code, nothing has a prefix),
`mmseg` and `huggingface` (the names in its files; transformers 5 has others in memory).
"""

import re
from typing import Literal

import torch
from torch import Tensor

from .._mit import SIZES
from ._described import Described
from ._renaming import Renaming

Code = Literal["cirkd", "mmseg", "huggingface", "nvidia"]

# one row per layer of the encoder, i a stage from 0, n from 1: ours, then the codes as COLUMNS tells
ENCODER = [
    ("embed.conv", "patch_embed{n}.proj", "layers.{i}.0.projection", "patch_embeddings.{i}.proj"),
    ("embed.norm", "patch_embed{n}.norm", "layers.{i}.0.norm", "patch_embeddings.{i}.layer_norm"),
    ("blocks.#.norm1", "block{n}.#.norm1", "layers.{i}.1.#.norm1", "block.{i}.#.layer_norm_1"),
    ("blocks.#.attention.query", "block{n}.#.attn.q", "layers.{i}.1.#.attn.q", "block.{i}.#.attention.self.query"),
    ("blocks.#.attention.key_value", "block{n}.#.attn.kv", "layers.{i}.1.#.attn.kv", "block.{i}.#.attention.self.kv"),
    (
        "blocks.#.attention.project",
        "block{n}.#.attn.proj",
        "layers.{i}.1.#.attn.attn.out_proj",
        "block.{i}.#.attention.output.dense",
    ),
    ("blocks.#.attention.reduce", "block{n}.#.attn.sr", "layers.{i}.1.#.attn.sr", "block.{i}.#.attention.self.sr"),
    (
        "blocks.#.attention.reduce_norm",
        "block{n}.#.attn.norm",
        "layers.{i}.1.#.attn.norm",
        "block.{i}.#.attention.self.layer_norm",
    ),
    ("blocks.#.norm2", "block{n}.#.norm2", "layers.{i}.1.#.norm2", "block.{i}.#.layer_norm_2"),
    ("blocks.#.mlp.expand", "block{n}.#.mlp.fc1", "layers.{i}.1.#.ffn.layers.0", "block.{i}.#.mlp.dense1"),
    (
        "blocks.#.mlp.depthwise",
        "block{n}.#.mlp.dwconv.dwconv",
        "layers.{i}.1.#.ffn.layers.1",
        "block.{i}.#.mlp.dwconv.dwconv",
    ),
    ("blocks.#.mlp.project", "block{n}.#.mlp.fc2", "layers.{i}.1.#.ffn.layers.4", "block.{i}.#.mlp.dense2"),
    ("norm", "norm{n}", "layers.{i}.2", "layer_norm.{i}"),
]
COLUMNS = {"cirkd": 1, "nvidia": 1, "mmseg": 2, "huggingface": 3}
PREFIXES = {"cirkd": "", "nvidia": "backbone.", "mmseg": "backbone.", "huggingface": "segformer.encoder."}

DECODER = {
    "cirkd": [(f"linear_c{i + 1}.proj.*", f"decoder.branches.{i}.*") for i in range(4)]
    + [
        ("linear_fuse.0.*", "decoder.fuse.*"),
        ("linear_fuse.1.*", "decoder.norm.*"),
        ("linear_pred.*", "classifier.*"),
    ],
    "mmseg": [
        ("decode_head.convs.#.*", "decoder.branches.#.*"),
        ("decode_head.fusion_conv.conv.*", "decoder.fuse.*"),
        ("decode_head.fusion_conv.bn.*", "decoder.norm.*"),
        ("decode_head.conv_seg.*", "classifier.*"),
    ],
    "huggingface": [
        ("decode_head.linear_c.#.proj.*", "decoder.branches.#.*"),
        ("decode_head.linear_fuse.*", "decoder.fuse.*"),
        ("decode_head.batch_norm.*", "decoder.norm.*"),
        ("decode_head.classifier.*", "classifier.*"),
    ],
    "nvidia": [(f"decode_head.linear_c{i + 1}.proj.*", f"decoder.branches.{i}.*") for i in range(4)]
    + [
        ("decode_head.linear_fuse.conv.*", "decoder.fuse.*"),
        ("decode_head.linear_fuse.bn.*", "decoder.norm.*"),
        ("decode_head.linear_pred.*", "classifier.*"),
    ],
}
# a classifier that nvidia's head has from the class it extends and never reads: its width, its names
UNREAD_WIDTH, UNREAD = 128, ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias")

# an entry only the whole network has, one only its encoder has
SIGNS = {
    "cirkd": ("linear_fuse.0.weight", "patch_embed1.proj.weight"),
    "mmseg": ("decode_head.fusion_conv.conv.weight", "layers.0.0.projection.weight"),
    "huggingface": ("decode_head.linear_fuse.weight", "encoder.patch_embeddings.0.proj.weight"),
    "nvidia": ("decode_head.linear_fuse.conv.weight", "patch_embed1.proj.weight"),
}

# what a code's networks have beside their weights
IMPLIED = {
    "cirkd": {"dropout": 0.0, "norm_eps": 1e-6, "reduction_eps": 1e-5, "align_corners": True},
    "mmseg": {"dropout": 0.1, "norm_eps": 1e-6, "reduction_eps": 1e-6, "align_corners": False},
    "huggingface": {"dropout": 0.1, "norm_eps": 1e-5, "reduction_eps": 1e-5, "align_corners": False},
    "nvidia": {"dropout": 0.1, "norm_eps": 1e-6, "reduction_eps": 1e-5, "align_corners": False},
}


def encoder_pairs(code: Code, theirs: str, ours: str) -> list[tuple[str, str]]:
    """(theirs, ours) for Renaming of the encoder's entries under the two prefixes."""
    return [
        (theirs + row[COLUMNS[code]].format(i=i, n=i + 1) + ".*", f"{ours}stages.{i}.{row[0]}.*")
        for i in range(4)
        for row in ENCODER
    ]


def fits(state: dict[str, Tensor], code: Code) -> bool:
    """Whether these are the entries of a whole SegFormer of this code."""
    decoder, encoder = SIGNS[code]
    prefix = PREFIXES[code].removesuffix("encoder.")
    return decoder in state and prefix + encoder in state


def is_ours(state: dict[str, Tensor]) -> bool:
    """Whether these are the entries of our SegFormer."""
    return "decoder.fuse.weight" in state and "backbone.stages.0.embed.conv.weight" in state


def read(state: dict[str, Tensor], code: Code) -> dict[str, Tensor]:
    """Their entries under our names, in our form."""
    pairs = encoder_pairs(code, PREFIXES[code], "backbone.") + DECODER[code]
    ours = Renaming(pairs).to_ours(our_form(state, code))
    if code != "mmseg" and "decoder.fuse.weight" in ours:
        ours["decoder.fuse.weight"] = turned(ours["decoder.fuse.weight"])
    return ours


def write(state: dict[str, Tensor], code: Code) -> dict[str, Tensor]:
    """Our entries under their names, in their form.

    Raises:
        ValueError: the decoder is not as in this code.
    """
    branches = "conv" if "decoder.branches.0.conv.weight" in state else "linear"
    bias = "decoder.fuse.bias" in state
    if (branches, bias) != (("conv", False) if code == "mmseg" else ("linear", code == "cirkd")):
        raise ValueError(
            f"the layout {code} has no entries for a SegFormer with branches: {branches} and fuse_bias: "
            f"{str(bias).lower()}; mmseg takes conv and false, cirkd linear and true, the others linear and false"
        )
    state = dict(state)
    if code != "mmseg":
        state["decoder.fuse.weight"] = turned(state["decoder.fuse.weight"])
    pairs = encoder_pairs(code, PREFIXES[code], "backbone.") + DECODER[code]
    theirs = their_form(Renaming(pairs).write(state, code), code)
    if code == "nvidia":
        classifier = state["classifier.weight"]
        weight = classifier.new_zeros(len(classifier), UNREAD_WIDTH, 1, 1)
        theirs |= zip(UNREAD, (weight, weight.new_zeros(len(weight))), strict=True)
    return theirs


def describe(state: dict[str, Tensor], code: Code) -> Described:
    """The SegFormer these entries of a code fit."""
    ours = read(state, code)
    args = {
        "backbone": mit_name(ours),
        "width": ours["decoder.fuse.weight"].shape[0],
        "branches": "conv" if "decoder.branches.0.conv.weight" in ours else "linear",
        "fuse_bias": "decoder.fuse.bias" in ours,
    }
    return Described(
        "segformer",
        num_classes=ours["classifier.weight"].shape[0],
        args=args | IMPLIED[code],
        normalize="cirkd" if code == "cirkd" else "imagenet",
    )


def mit_name(ours: dict[str, Tensor], prefix: str = "backbone.") -> str:
    """Which Mix Transformer stands under the prefix, in our names. ValueError: none of ours."""
    widths = tuple(ours[f"{prefix}stages.{i}.embed.conv.weight"].shape[0] for i in range(4))
    block = re.compile(re.escape(prefix) + r"stages\.(\d)\.blocks\.(\d+)\.norm1\.weight")
    found = [match[1] for key in ours if (match := block.fullmatch(key))]
    depths = tuple(found.count(str(i)) for i in range(4))
    for name, size in SIZES.items():
        if size == (widths, depths):
            return name
    raise ValueError(
        f"the Mix Transformer of this checkpoint has {widths} channels and {depths} blocks; ours are {', '.join(SIZES)}"
    )


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """An ImageNet file of the encoder alone, of the paper's code, mmsegmentation or Hugging Face, under our backbone's
    names without the prefix, classifier dropped; None for any other file."""
    for code, prefix in (("cirkd", ""), ("mmseg", ""), ("huggingface", "segformer.encoder.")):
        whole, sign = SIGNS[code]
        if whole not in state and prefix.removesuffix("encoder.") + sign in state:
            kept = {key: value for key, value in state.items() if not key.startswith(("head.", "classifier."))}
            return Renaming(encoder_pairs(code, prefix, "")).to_ours(our_form(kept, code))
    return None


def our_form(state: dict[str, Tensor], code: Code) -> dict[str, Tensor]:
    """Their entries in our form: one matrix for query, one for keys and values; linear layers as matrices."""
    found = {}
    for key, value in state.items():
        if code == "nvidia" and key in UNREAD:
            continue
        if code == "mmseg" and ".attn.attn.in_proj_" in key:
            place, kind = key.split("attn.in_proj_")
            channels = value.shape[0] // 3
            found[f"{place}q.{kind}"], found[f"{place}kv.{kind}"] = value.split([channels, 2 * channels])
        elif code == "mmseg" and key.endswith((".ffn.layers.0.weight", ".ffn.layers.4.weight")):
            found[key] = value.flatten(1)  # (D, C, 1, 1) -> (D, C)
        elif code == "huggingface" and ".attention.self.key." in key:
            found[key.replace(".key.", ".kv.")] = torch.cat([value, state[key.replace(".key.", ".value.")]])
        elif code != "huggingface" or ".attention.self.value." not in key:
            found[key] = value
    return found


def their_form(state: dict[str, Tensor], code: Code) -> dict[str, Tensor]:
    """The inverse of `our_form`."""
    found = {}
    for key, value in state.items():
        if code == "mmseg" and ".attn.q." in key:
            both = torch.cat([value, state[key.replace(".attn.q.", ".attn.kv.")]])
            found[key.replace(".attn.q.", ".attn.attn.in_proj_")] = both
        elif code == "mmseg" and key.endswith((".ffn.layers.0.weight", ".ffn.layers.4.weight")):
            found[key] = value[:, :, None, None]
        elif code == "huggingface" and ".attention.self.kv." in key:
            for name, half in zip((".key.", ".value."), value.chunk(2), strict=True):
                found[key.replace(".kv.", name)] = half
        elif code != "mmseg" or ".attn.kv." not in key:
            found[key] = value
    return found


def turned(weight: Tensor) -> Tensor:
    """The fusing 1x1 with its four blocks of input channels in the opposite order: ours has stage1 first."""
    return torch.cat(weight.chunk(4, dim=1)[::-1], dim=1)
