"""BiSeNetV2 in CoinCheung's code and in mmsegmentation, which are two networks; the first's file of the encoder."""

from torch import Tensor

from ._layout import Described, NetworkLayout, Renaming, conv_bn

STAGES = {1: "S3", 2: "S4", 3: "S5_4"}  # number of ours among the semantic stages, from 1 -> theirs
AUX = {"aux2": "aux2", "aux3": "aux3", "aux4": "aux4", "aux5": "aux5_4"}  # ours -> theirs


def original_encoder() -> list[tuple[str, str]]:
    """(theirs, ours) of the encoder's entries in CoinCheung's code, ours without `backbone.`."""
    pairs = [(f"detail.S{i + 1}.#.*", f"detail.{i}.#.*") for i in range(3)]
    pairs += [
        (f"segment.S1S2.{theirs}", f"stem.{ours}")
        for theirs, ours in (("conv.*", "first.*"), ("left.#.*", "left.#.*"), ("fuse.*", "fuse.*"))
    ]
    for number, name in STAGES.items():
        theirs, ours = f"segment.{name}", f"stages.{number - 1}"
        # the first block of a stage has two depthwise layers and a shortcut
        for i in (0, 1):
            pairs += conv_bn(f"{theirs}.0.dwconv{i + 1}", f"{ours}.0.depthwise.{i}")
            pairs += conv_bn(f"{theirs}.0.shortcut", f"{ours}.0.shortcut.{i}", 2 * i, 2 * i + 1)
        pairs += conv_bn(f"{theirs}.#.dwconv", f"{ours}.#.depthwise.0")
        pairs += [(f"{theirs}.#.conv1.*", f"{ours}.#.refine.*")]
        pairs += conv_bn(f"{theirs}.#.conv2", f"{ours}.#.project")
    pairs += [
        (f"segment.S5_5.{theirs}.*", f"context.{ours}.*")
        for theirs, ours in (("bn", "bn"), ("conv_gap", "widen"), ("conv_last", "last"))
    ]
    for side, ours in (("left1", "detail"), ("right2", "semantic")):
        pairs += conv_bn(f"bga.{side}", f"aggregation.{ours}_depthwise")
        pairs += [(f"bga.{side}.2.weight", f"aggregation.{ours}_pointwise.weight")]
    for theirs, ours in (("left2", "detail_down"), ("right1", "semantic_conv"), ("conv", "project")):
        pairs += conv_bn(f"bga.{theirs}", f"aggregation.{ours}")
    return pairs


def mmseg_encoder() -> list[tuple[str, str]]:
    """(theirs, ours) of the encoder's entries in mmsegmentation, both without `backbone.`."""
    pairs = [("detail.detail_branch.#.#.*", "detail.#.#.*")]
    pairs += [
        (f"semantic.stage1.{theirs}", f"stem.{ours}")
        for theirs, ours in (("conv_first.*", "first.*"), ("convs.#.*", "left.#.*"), ("fuse_last.*", "fuse.*"))
    ]
    for number in STAGES:
        theirs, ours = f"semantic.stage{number + 1}.#", f"stages.{number - 1}.#"
        pairs += [
            (f"{theirs}.{their_layer}.*", f"{ours}.{our_layer}.*")
            for their_layer, our_layer in (
                ("conv1", "refine"),
                ("dwconv.#", "depthwise.#"),
                ("conv2.0", "project"),
                ("shortcut.0.depthwise_conv", "shortcut.0"),
                ("shortcut.0.pointwise_conv", "shortcut.1"),
            )
        ]
    pairs += [
        (f"semantic.stage4_CEBlock.{theirs}.*", f"context.{ours}.*")
        for theirs, ours in (("gap.1", "bn"), ("conv_gap", "widen"), ("conv_last", "last"))
    ]
    for side in ("detail", "semantic"):
        pairs += [(f"bga.{side}_dwconv.0.depthwise_conv.*", f"aggregation.{side}_depthwise.*")]
        pairs += [(f"bga.{side}_dwconv.0.pointwise_conv.conv.*", f"aggregation.{side}_pointwise.*")]
    pairs += [
        (f"bga.{theirs}.*", f"aggregation.{ours}.*")
        for theirs, ours in (
            ("detail_down.0", "detail_down"),
            ("semantic_conv.0", "semantic_conv"),
            ("conv", "project"),
        )
    ]
    return pairs


ORIGINAL_TABLE = Renaming(
    [(theirs, f"backbone.{ours}") for theirs, ours in original_encoder()]
    + [("head.conv.*", "refine.*"), ("head.conv_out.1.*", "classifier.*")]
    + [
        (f"{theirs}.{their_layer}.*", f"aux_heads.{ours}.{our_layer}.*")
        for ours, theirs in AUX.items()
        for their_layer, our_layer in (("conv", "conv"), ("conv_out.0.1", "refine"), ("conv_out.1", "classifier"))
    ]
)
MMSEG_TABLE = Renaming(
    [(f"backbone.{theirs}", f"backbone.{ours}") for theirs, ours in mmseg_encoder()]
    + [("decode_head.convs.0.*", "refine.*"), ("decode_head.conv_seg.*", "classifier.*")]
    + [
        (f"auxiliary_head.{i}.{their_layer}.*", f"aux_heads.{ours}.{our_layer}.*")
        for i, ours in enumerate(AUX)
        for their_layer, our_layer in (("convs.0", "conv"), ("convs.1", "refine"), ("conv_seg", "classifier"))
    ]
)


def _described(arrangement: str, classifier: str, aux: str, state: dict[str, Tensor]) -> Described:
    """The network; that it has auxiliary heads shows in `aux`, an entry of the first."""
    num_classes, width = state[classifier].shape[:2]
    args = {"arrangement": arrangement, "width": width, "aux": aux in state, "align_corners": False}
    return Described("bisenetv2", num_classes, args, "bisenetv2" if arrangement == "original" else "imagenet")


ORIGINAL = NetworkLayout(
    "the layout bisenetv2",
    ("bga.left1.0.weight", "head.conv_out.1.weight"),
    "backbone.aggregation.project.conv.weight",
    lambda state: ORIGINAL_TABLE,
    lambda state: _described("original", "head.conv_out.1.weight", "aux2.conv.conv.weight", state),
)
MMSEG = NetworkLayout(
    "mmsegmentation",
    ("backbone.bga.conv.conv.weight", "decode_head.conv_seg.weight"),
    "backbone.aggregation.detail_pointwise.bias",
    lambda state: MMSEG_TABLE,
    lambda state: _described("mmseg", "decode_head.conv_seg.weight", "auxiliary_head.0.conv_seg.weight", state),
)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """CoinCheung's ImageNet file under our names: both branches and, where it has it, their aggregation."""
    if "segment.S1S2.conv.conv.weight" not in state:
        return None
    kept = {key: value for key, value in state.items() if key.startswith(("detail.", "segment.", "bga."))}
    return Renaming(original_encoder()).to_ours(kept)
