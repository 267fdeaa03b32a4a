"""PIDNet and DDRNet in the codes of their authors and in mmsegmentation, and the authors' ImageNet files."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ._layout import Described, NetworkLayout, Renaming, conv_bn

Code = Literal["original", "mmseg"]

# what DDRNet's and PIDNet's files from ImageNet hold, too, and no other network's
IMAGENET = ("conv1.3.weight", "layer3_.0.conv1.weight", "layer5.0.conv3.weight")


def block(theirs: str, ours: str, code: Code, downsample: tuple[str, str] = ("0", "1")) -> list[tuple[str, str]]:
    """Rows of a residual block."""
    names = ("conv#.*", "bn#.*") if code == "original" else ("conv#.conv.*", "conv#.bn.*")
    pairs = list(zip((f"{theirs}.{name}" for name in names), (f"{ours}.conv#.conv.*", f"{ours}.conv#.bn.*")))
    return pairs + conv_bn(f"{theirs}.downsample", f"{ours}.downsample", *downsample)


def norm_first(theirs: str, ours: str, code: Code, bn: int, conv: int) -> list[tuple[str, str]]:
    """Rows of a batch norm and the convolution behind it, which the originals number."""
    return conv_bn(theirs, ours, *((conv, bn) if code == "original" else ("conv", "bn")))


def stem(code: Code, downsample: tuple[str, str]) -> list[tuple[str, str]]:
    """Rows of the stem and the stages at strides 4 and 8; `downsample`: their names of a shortcut's two parts."""
    pairs = []
    for number in (0, 1):
        ours = f"backbone.stem.{number}"
        pairs += (
            conv_bn("conv1", ours, 3 * number, 3 * number + 1)
            if code == "original"
            else conv_bn(f"backbone.stem.{number}", ours, "conv", "bn")
        )
    for number, theirs in ((1, "backbone.stem.2"), (2, "backbone.stem.4")):
        theirs = f"layer{number}" if code == "original" else theirs
        pairs += block(f"{theirs}.#", f"backbone.layer{number}.#", code, downsample)
    return pairs


def pyramid(code: Code, parallel: bool) -> list[tuple[str, str]]:
    """Rows of the pyramid of averages."""
    theirs, ours = ("spp" if code == "original" else "backbone.spp"), "backbone.pyramid"
    pairs = norm_first(
        f"{theirs}.scale0" if code == "original" else f"{theirs}.scales.0", f"{ours}.scales.0", code, 0, 2
    )
    for i in range(1, 5):
        scale = f"{theirs}.scale{i}" if code == "original" else f"{theirs}.scales.{i}.1"
        pairs += norm_first(scale, f"{ours}.scales.{i}", code, 1, 3)
    if parallel:
        process = "scale_process" if code == "original" else "processes"
        pairs += norm_first(f"{theirs}.{process}", f"{ours}.processes.0", code, 0, 2)
    else:
        for i in range(4):
            process = f"process{i + 1}" if code == "original" else f"processes.{i}"
            pairs += norm_first(f"{theirs}.{process}", f"{ours}.processes.{i}", code, 0, 2)
    for part in ("compression", "shortcut"):
        pairs += norm_first(f"{theirs}.{part}", f"{ours}.{part}", code, 0, 2)
    return pairs


def original_head(theirs: str, ours: str) -> list[tuple[str, str]]:
    """Rows of a head in the authors' codes."""
    return [
        (f"{theirs}.bn1.*", f"{ours}.conv.bn.*"),
        (f"{theirs}.conv1.*", f"{ours}.conv.conv.*"),
        (f"{theirs}.bn2.*", f"{ours}.bn.*"),
        (f"{theirs}.conv2.*", f"{ours}.classifier.*"),
    ]


def mmseg_head(conv: str, norm: str, classifier: str, ours: str) -> list[tuple[str, str]]:
    """Rows of a head in mmsegmentation, which keeps the classifier elsewhere."""
    return [
        *conv_bn(f"decode_head.{conv}", f"{ours}.conv", "conv", "bn"),
        (f"decode_head.{norm}.*", f"{ours}.bn.*"),
        (f"decode_head.{classifier}.*", f"{ours}.classifier.*"),
    ]


def pidnet(code: Code, large: bool) -> Renaming:
    """The table of PIDNet; L has other blocks for borders, another pyramid and another fusion than S and M."""
    original = code == "original"
    downsample = ("0", "1") if original else ("conv", "bn")
    pairs = stem(code, downsample) + pyramid(code, parallel=not large)
    for branch, mark in (("i", ""), ("p", "_"), ("d", "_d")):
        for i in range(3):
            theirs = f"layer{i + 3}{mark}" if original else f"backbone.{branch}_branch_layers.{i}"
            ours = f"backbone.layers_{branch}.{i}"
            if branch != "d":
                theirs, ours = f"{theirs}.#", f"{ours}.#"
            elif i == 2 or (i == 1 and not large):
                theirs = f"{theirs}.0"
            pairs += block(theirs, ours, code, downsample)
    parts = (0, 1) if original else ("conv", "bn")
    for i in range(2):
        names = (
            (f"compression{i + 3}", f"diff{i + 3}", f"pag{i + 3}.f_x", f"pag{i + 3}.f_y")
            if original
            else (f"compression_{i + 1}", f"diff_{i + 1}", f"pag_{i + 1}.f_p", f"pag_{i + 1}.f_i")
        )
        ours = (f"compressions.{i}", f"differences.{i}", f"attentions.{i}.f_p", f"attentions.{i}.f_i")
        for theirs, own in zip(names, ours, strict=True):
            pairs += conv_bn(theirs if original else f"backbone.{theirs}", f"backbone.{own}", *parts)
    fusion = "dfm" if original else "backbone.dfm"
    if large:
        pairs += norm_first(f"{fusion}.conv", "backbone.fusion.f", code, 0, 2)
    else:
        for part in "pi":
            theirs = f"{fusion}.{'conv' if original else 'f'}_{part}"
            pairs += conv_bn(theirs, f"backbone.fusion.f_{part}", *parts)
    heads = {"head": ("final_layer", "i", "conv_seg"), "aux_head": ("seghead_p", "p", "p_cls_seg")}
    heads |= {"boundary_head": ("seghead_d", "d", "d_cls_seg")}
    for ours, (theirs, letter, classifier) in heads.items():
        head = f"{letter}_head"
        pairs += (
            original_head(theirs, ours) if original else mmseg_head(f"{head}.conv", f"{head}.norm", classifier, ours)
        )
    return Renaming(pairs)


def ddrnet(code: Code) -> Renaming:
    """The table of DDRNet."""
    original = code == "original"
    pairs = stem(code, ("0", "1")) + pyramid(code, parallel=False)
    for branch, mark in (("context", ""), ("spatial", "_")):
        for i in range(3):
            theirs = f"layer{i + 3}{mark}" if original else f"backbone.{branch}_branch_layers.{i}"
            pairs += block(f"{theirs}.#", f"backbone.{branch}.{i}.#", code, ("0", "1"))
    # theirs, convolution and norm in the original; mmsegmentation's name; ours
    rows = [("compression3", 0, 1, "compression_1", "compressions.0"), ("down3", 0, 1, "down_1", "downs.0.0")]
    rows += [("compression4", 0, 1, "compression_2", "compressions.1")]
    rows += [("down4", 3 * i, 3 * i + 1, f"down_2.{i}", f"downs.1.{i}") for i in range(2)]
    for theirs, conv, bn, mmseg, ours in rows:
        row = (
            (theirs, f"backbone.{ours}", conv, bn)
            if original
            else (f"backbone.{mmseg}", f"backbone.{ours}", "conv", "bn")
        )
        pairs += conv_bn(*row)
    if original:
        pairs += original_head("final_layer", "head") + original_head("seghead_extra", "aux_head")
    else:
        pairs += mmseg_head("head.0", "head.1", "conv_seg", "head")
        pairs += mmseg_head("aux_head.0", "aux_head.1", "aux_cls_seg", "aux_head")
    return Renaming(pairs)


def pidnet_of(state: dict[str, Tensor], code: Code) -> Described:
    """The PIDNet that a file fits. ValueError: of other numbers of blocks than S, M and L."""
    ours = pidnet(code, is_large(state)).to_ours(state)
    width, depth = len(ours["backbone.stem.0.conv.weight"]), _count(ours, "backbone.layer1.#.conv1.conv.weight")
    if depth not in (2, 3):
        raise ValueError(f"this PIDNet has {depth} blocks at stride 4; ours are S and M with 2 and L with 3")
    variant = "l" if depth == 3 else "s" if width < 64 else "m"
    return _described("pidnet", ours, {"variant": variant, "align_corners": True, "aux_reads_relu": code == "original"})


def ddrnet_of(state: dict[str, Tensor], code: Code) -> Described:
    """The DDRNet that a file fits."""
    ours = ddrnet(code).to_ours(state)
    head, pyramid = ours["head.conv.conv.weight"], ours["backbone.pyramid.scales.0.conv.weight"]
    return _described("ddrnet", ours, {"head_width": len(head), "pyramid_width": len(pyramid), "align_corners": False})


def _described(model: str, ours: dict[str, Tensor], args: dict) -> Described:
    args |= {"width": len(ours["backbone.stem.0.conv.weight"]), "aux": "aux_head.classifier.weight" in ours}
    args |= {"stem_bias": "backbone.stem.0.conv.bias" in ours}
    return Described(model, len(ours["head.classifier.weight"]), args)


def _count(state: dict[str, Tensor], pattern: str) -> int:
    before, _, after = pattern.partition("#")
    return sum(key.startswith(before) and key.endswith(after) for key in state)


def is_large(state: dict[str, Tensor]) -> bool:
    """Whether a PIDNet is L, in whose names ever."""
    return any(
        key in state for key in ("dfm.conv.2.weight", "backbone.dfm.conv.conv.weight", "backbone.fusion.f.conv.weight")
    )


@dataclass(frozen=True)
class DualResolutionLayout(NetworkLayout):
    """A layout of one of the two networks in a code whose stem has a bias, or has none."""

    has_stem_bias: bool = True

    def write(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our entries under their names.

        A bias of the stem that they lack goes into the mean behind it; one that we lack is 0.
        """
        state = dict(state)
        for place in ("backbone.stem.0.", "backbone.stem.1."):
            weight, mean = state.get(f"{place}conv.weight"), f"{place}bn.running_mean"
            bias = state.pop(f"{place}conv.bias", None)
            if weight is None:
                continue  # another network, which is refused below
            if self.has_stem_bias:
                state[f"{place}conv.bias"] = torch.zeros_like(state[mean]) if bias is None else bias
            elif bias is not None:
                state[mean] = state[mean] - bias
        return super().write(state)


PIDNET = DualResolutionLayout(
    "the layout pidnet",
    ("final_layer.conv2.weight", "pag3.f_x.0.weight"),
    "backbone.attentions.0.f_p.conv.weight",
    lambda state: pidnet("original", is_large(state)),
    lambda state: pidnet_of(state, "original"),
)
PIDNET_MMSEG = DualResolutionLayout(
    "mmsegmentation",
    ("decode_head.conv_seg.weight", "backbone.pag_1.f_p.conv.weight"),
    "backbone.attentions.0.f_p.conv.weight",
    lambda state: pidnet("mmseg", is_large(state)),
    lambda state: pidnet_of(state, "mmseg"),
    has_stem_bias=False,
)
DDRNET = DualResolutionLayout(
    "the layout ddrnet",
    ("final_layer.conv2.weight", "down4.3.weight"),
    "backbone.downs.1.1.conv.weight",
    lambda state: ddrnet("original"),
    lambda state: ddrnet_of(state, "original"),
)
DDRNET_MMSEG = DualResolutionLayout(
    "mmsegmentation",
    ("decode_head.conv_seg.weight", "backbone.down_2.1.conv.weight"),
    "backbone.downs.1.1.conv.weight",
    lambda state: ddrnet("mmseg"),
    lambda state: ddrnet_of(state, "mmseg"),
    has_stem_bias=False,
)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The authors' ImageNet files under our encoders' names, the classifier's as they are; None: another file."""
    if not all(key in state for key in IMAGENET) or "final_layer.conv2.weight" in state:
        return None
    is_ddrnet = "down4.3.weight" in state and "pag3.f_x.0.weight" not in state and "layer3_d.conv1.weight" not in state
    table = ddrnet("original") if is_ddrnet else pidnet("original", is_large(state))
    return {key.removeprefix("backbone."): value for key, value in table.to_ours(state).items()}
