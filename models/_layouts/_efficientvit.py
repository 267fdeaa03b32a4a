"""EfficientViT-Seg in its authors' code, and their ImageNet files, under the names of timm's encoder and our head."""

from torch import Tensor

from ._layout import Described, NetworkLayout, Renaming

ENCODER = [
    ("input_stem.op_list.0.*", "stem.in_conv.*"),
    *((f"input_stem.op_list.{i + 1}.*", f"stem.res{i}.*") for i in range(4)),
    ("stages.#.op_list.*", "stages.#.blocks.*"),
]
HEAD = [
    ("head.input_ops.0.op_list.0.*", "inputs.stage4.*"),
    ("head.input_ops.1.op_list.0.*", "inputs.stage3.*"),
    ("head.input_ops.2.*", "inputs.stage2.*"),
    ("head.middle.op_list.#.main.*", "middle.#.*"),
]
OUTPUT = "head.output_ops.0.op_list"
EXPANDING = [(f"{OUTPUT}.0.*", "expand.*"), (f"{OUTPUT}.1.conv.*", "classifier.*")]
PLAIN = [(f"{OUTPUT}.0.conv.*", "classifier.*")]
WIDTHS = {8: "efficientvit_b0", 16: "efficientvit_b1"}  # channels of the stem -> name


def renaming(state: dict[str, Tensor]) -> Renaming:
    """The table of a network with the expansion before its classifier, or without."""
    expands = f"{OUTPUT}.1.conv.weight" in state or "expand.conv.weight" in state
    encoder = [(f"backbone.{theirs}", f"backbone.{ours}") for theirs, ours in ENCODER]
    return Renaming(encoder + HEAD + (EXPANDING if expands else PLAIN))


def described(state: dict[str, Tensor]) -> Described:
    """The network as it was evaluated: with scores enlarged bicubically. ValueError: an encoder we do not have."""
    stem = len(state["backbone.input_stem.op_list.0.conv.weight"])
    if stem not in WIDTHS:
        raise ValueError(
            f"the EfficientViT of this checkpoint begins with {stem} channels; "
            f"ours are {', '.join(f'{name} with {count}' for count, name in WIDTHS.items())}"
        )
    width = len(state["head.input_ops.2.conv.weight"])
    expands = f"{OUTPUT}.1.conv.weight" in state
    classifier = state[f"{OUTPUT}.{int(expands)}.conv.weight"]
    depth = sum(key.startswith("head.middle.op_list.") and key.endswith("depth_conv.conv.weight") for key in state)
    args = {"backbone": WIDTHS[stem], "width": width, "depth": depth, "full_size": True, "align_corners": False}
    return Described(
        "efficientvit_seg", len(classifier), args | {"expand": classifier.shape[1] // width if expands else 0}
    )


ORIGINAL = NetworkLayout(
    "the layout efficientvit",
    ("backbone.input_stem.op_list.0.conv.weight", "head.input_ops.2.conv.weight"),
    "inputs.stage4.conv.weight",
    renaming,
    described,
)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The authors' ImageNet file of an encoder under timm's names, None: another file."""
    if "backbone.input_stem.op_list.0.conv.weight" not in state or "head.input_ops.2.conv.weight" in state:
        return None
    kept = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    return Renaming(ENCODER).to_ours(kept)
