"""SegNeXt in its authors' code and in mmsegmentation, which differ in one name; MSCAN's ImageNet files of both."""

import re

from torch import Tensor

from .._mscan import SIZES
from ._layout import Described, NetworkLayout, Renaming

# of a block: theirs, ours
BLOCK = [
    ("norm1", "norm1"),
    ("norm2", "norm2"),
    ("attn.proj_1", "attention.project_in"),
    ("attn.proj_2", "attention.project_out"),
    ("attn.spatial_gating_unit.conv0", "attention.weigh.local"),
    ("attn.spatial_gating_unit.conv3", "attention.weigh.mix"),
    *(
        (f"attn.spatial_gating_unit.conv{i}_{j + 1}", f"attention.weigh.strips.{i}.{j}")
        for i in range(3)
        for j in (0, 1)
    ),
    ("mlp.fc1", "mlp.expand"),
    ("mlp.fc2", "mlp.project"),
]
DEPTHWISE = {"segnext": "mlp.dwconv.dwconv", "mmseg": "mlp.dwconv"}
HEAD = [
    ("decode_head.squeeze.conv.*", "squeeze.conv.*"),
    ("decode_head.squeeze.gn.*", "squeeze.norm.*"),
    ("decode_head.hamburger.ham_in.conv.*", "ham_in.*"),
    ("decode_head.hamburger.ham_out.conv.*", "ham_out.conv.*"),
    ("decode_head.hamburger.ham_out.gn.*", "ham_out.norm.*"),
    ("decode_head.align.conv.*", "align.conv.*"),
    ("decode_head.align.gn.*", "align.norm.*"),
    ("decode_head.conv_seg.*", "classifier.*"),
]


def encoder_pairs(code: str, theirs: str, ours: str) -> list[tuple[str, str]]:
    """(theirs, ours) for Renaming of the encoder's entries under the two prefixes."""
    pairs = []
    for i in range(4):
        their_block, our_block = f"{theirs}block{i + 1}.#.", f"{ours}stages.{i}.blocks.#."
        block = [*BLOCK, (DEPTHWISE[code], "mlp.depthwise")]
        pairs += [(f"{their_block}{name}.*", f"{our_block}{own}.*") for name, own in block]
        pairs += [(f"{their_block}layer_scale_{j}", f"{our_block}scale{j}") for j in (1, 2)]
        pairs += [(f"{theirs}norm{i + 1}.*", f"{ours}stages.{i}.norm.*")]
        embed = [("norm.*", "1.*"), ("proj.*", "0.*")] if i else [("proj.#.*", "#.*")]
        pairs += [(f"{theirs}patch_embed{i + 1}.{name}", f"{ours}stages.{i}.embed.{own}") for name, own in embed]
    return pairs


def described(state: dict[str, Tensor]) -> Described:
    """The SegNeXt of a file, by the widths and depths of its encoder. ValueError: an encoder we do not have."""
    widths = tuple(len(state[f"backbone.norm{n}.weight"]) for n in range(1, 5))
    found = [match[1] for key in state if (match := re.fullmatch(r"backbone\.block(\d)\.\d+\.layer_scale_1", key))]
    depths = tuple(found.count(str(n)) for n in range(1, 5))
    name = next((name for name, size in SIZES.items() if size == (widths, depths)), None)
    if name is None:
        raise ValueError(
            f"the MSCAN of this checkpoint has {widths} channels and {depths} blocks; ours are {', '.join(SIZES)}"
        )
    classifier = state["decode_head.conv_seg.weight"]
    return Described(
        "segnext", len(classifier), {"backbone": name, "width": classifier.shape[1], "align_corners": False}
    )


def _layout(code: str, name: str) -> NetworkLayout:
    table = Renaming(encoder_pairs(name, "backbone.", "backbone.") + HEAD)
    marks = f"backbone.block1.0.{DEPTHWISE[name]}.weight", "decode_head.squeeze.conv.weight"
    return NetworkLayout(code, marks, "ham_in.weight", lambda state: table, described)


ORIGINAL, MMSEG = _layout("the layout segnext", "segnext"), _layout("mmsegmentation", "mmseg")


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """An ImageNet file of the encoder alone under our names, None: another file."""
    code = next((code for code, name in DEPTHWISE.items() if f"block1.0.{name}.weight" in state), None)
    if code is None or "block1.0.layer_scale_1" not in state:
        return None
    kept = {key: value for key, value in state.items() if not key.startswith("head.")}
    return Renaming(encoder_pairs(code, "", "")).to_ours(kept)
