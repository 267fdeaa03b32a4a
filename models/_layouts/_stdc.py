"""STDC1-Seg and STDC2-Seg in their authors' code and in mmsegmentation, and the authors' ImageNet files."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ._layout import Described, NetworkLayout, Renaming, conv_bn

BLOCKS = {6: (2, 2, 2), 12: (4, 5, 3)}  # of all stages -> of each; the authors number all in one row, from 2 on
EPS = 1e-5  # the authors' batch norms outside of the encoder, in-place activated ones, scale by |weight| + EPS
# (theirs, mmsegmentation's, ours) of a convolution and its batch norm
PARTS = [
    ("cp.conv_avg", "backbone.conv_avg", "pooled"),
    ("cp.arm32.conv", "backbone.arms.0.conv_layer", "arm32.conv"),
    ("cp.arm16.conv", "backbone.arms.1.conv_layer", "arm16.conv"),
    ("cp.conv_head32", "backbone.convs.0", "refine32"),
    ("cp.conv_head16", "backbone.convs.1", "refine16"),
    ("ffm.convblk", "backbone.ffm.conv0", "fusion.conv"),
    ("conv_out.conv", "decode_head.convs.0", "head"),
    ("conv_out16.conv", "auxiliary_head.0.convs.0", "aux_heads.aux16.conv"),
    ("conv_out32.conv", "auxiliary_head.1.convs.0", "aux_heads.aux32.conv"),
    ("conv_out_sp8.conv", "auxiliary_head.2.convs.0", "aux_heads.detail.conv"),
]
# and of what has no batch norm
PLAIN = [
    ("ffm.conv1", "backbone.ffm.attention.1.conv", "fusion.reduce"),
    ("ffm.conv2", "backbone.ffm.attention.2.conv", "fusion.expand"),
    ("conv_out.conv_out", "decode_head.conv_seg", "classifier"),
    ("conv_out16.conv_out", "auxiliary_head.0.conv_seg", "aux_heads.aux16.classifier"),
    ("conv_out32.conv_out", "auxiliary_head.1.conv_seg", "aux_heads.aux32.classifier"),
    ("conv_out_sp8.conv_out", "auxiliary_head.2.conv_seg", "aux_heads.detail.classifier"),
]
DETAIL = "aux_heads.detail.classifier.weight"
# what no forward pass reads: the encoder's classifier and further heads of details, by what they read
UNREAD = re.compile(r"(cp\.backbone\.)?(conv_last|fc|bn|linear)\.|conv_out_sp(2|4|16)\.")
UNREAD_HEADS = {"conv_out_sp16": 8, "conv_out_sp4": 1, "conv_out_sp2": 0.5}  # times the channels at stride 4
# the encoder once more, by strides
TWICE = re.compile(r"(cp\.backbone\.)?x(2|4|8|16|32)\.")
NORM = ("weight", "bias", "running_mean", "running_var")
# constants that mmsegmentation's detail head keeps
KERNELS = ("auxiliary_head.2.laplacian_kernel", "auxiliary_head.2.fusion_kernel")
LAPLACIAN, SHARES = [[-1.0, -1, -1], [-1, 8, -1], [-1, -1, -1]], [0.6, 0.3, 0.1]


def encoder_pairs(count: int, theirs: str, ours: str) -> list[tuple[str, str]]:
    """Rows of the authors' encoder of so many blocks, under the two prefixes."""
    pairs = [(f"{theirs}{i}.*", f"{ours}stem.{i}.*") for i in (0, 1)]
    number = 2
    for stage, blocks in enumerate(BLOCKS[count]):
        for block in range(blocks):
            place = f"{ours}stages.{stage}.{block}"
            pairs += [(f"{theirs}{number}.conv_list.#.*", f"{place}.convs.#.*")]
            pairs += conv_bn(f"{theirs}{number}.avd_layer", f"{place}.down")
            number += 1
    return pairs


def original(state: dict[str, Tensor]) -> Renaming:
    """The table of the authors' names."""
    pairs = encoder_pairs(count_blocks(state), "cp.backbone.features.", "backbone.")
    for arm in ("arm32", "arm16"):
        pairs += [(f"cp.{arm}.conv_atten.*", f"{arm}.gate.conv.*"), (f"cp.{arm}.bn_atten.*", f"{arm}.gate.bn.*")]
    return Renaming(pairs + [(f"{theirs}.*", f"{ours}.*") for theirs, _, ours in PARTS + PLAIN])


def mmseg(state: dict[str, Tensor]) -> Renaming:
    """The table of mmsegmentation's names."""
    stages = "backbone.backbone.stages"
    pairs = [(f"{stages}.{i}.conv.*", f"backbone.stem.{i}.conv.*") for i in (0, 1)]
    pairs += [(f"{stages}.{i}.bn.*", f"backbone.stem.{i}.bn.*") for i in (0, 1)]
    for i in range(3):
        place = f"{stages}.{i + 2}.#"
        pairs += [(f"{place}.layers.#.*", f"backbone.stages.{i}.#.convs.#.*")]
        pairs += [(f"{place}.downsample.*", f"backbone.stages.{i}.#.down.*")]
    pairs += [(f"backbone.arms.{i}.atten_conv_layer.1.*", f"arm{32 // (i + 1)}.gate.*") for i in (0, 1)]
    return Renaming(pairs + [(f"{theirs}.*", f"{ours}.*") for _, theirs, ours in PARTS + PLAIN])


def count_blocks(state: dict[str, Tensor]) -> int:
    """Blocks of all stages, in whose names ever. ValueError: neither STDC1's nor STDC2's."""
    first = r"((cp\.backbone\.)?features\.\d+\.conv_list|backbone\.backbone\.stages\.\d\.\d+\.layers"
    first += r"|(backbone\.)?stages\.\d\.\d+\.convs)\.0\.conv\.weight"
    count = sum(re.fullmatch(first, key) is not None for key in state)
    if count not in BLOCKS:
        raise ValueError(f"the STDC of this checkpoint has {count} blocks; STDC1 has 6 and STDC2 12")
    return count


def described(state: dict[str, Tensor], ours: dict[str, Tensor]) -> Described:
    """The network that a file's entries fit, given under their names and under ours."""
    args = {"variant": 1 if count_blocks(state) == 6 else 2, "width": len(ours["backbone.stem.1.conv.weight"])}
    args |= {"classifier_bias": "classifier.bias" in ours, "align_corners": True}
    channels = detail_channels(ours)
    args |= {"aux": False} if channels is None else {"aux": True, "detail_channels": channels}
    return Described("stdc", len(ours["classifier.weight"]), args)


@dataclass(frozen=True)
class OriginalLayout(NetworkLayout):
    """The authors' files: the encoder twice, entries that nothing reads, batch norms that scale by |weight| + EPS."""

    def read(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their entries under our names, the scales as ours."""
        kept = {key: value for key, value in state.items() if not UNREAD.match(key) and not TWICE.match(key)}
        kept |= {key: kept[key].abs() + EPS for key in kept if is_scale(key, kept[key])}
        return self.renaming(kept).to_ours(kept)

    def write(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our entries under their names, zeros where nothing is read.

        Raises:
            ValueError: another network, classifiers in mmsegmentation's form, or a scale below EPS.
        """
        if self.is_ours(state) and ("classifier.bias" in state or detail_channels(state) == 2):
            raise ValueError(f"{self.code} has classifiers without a bias, and one channel of details")
        theirs = super().write(state)
        for key in [key for key in theirs if is_scale(key, theirs[key])]:
            if (theirs[key] < EPS).any():
                raise ValueError(
                    f"{self.code} scales by |weight| + {EPS}: {key} has a smaller scale, or a negative one"
                )
            theirs[key] = theirs[key] - EPS
        theirs = {
            key: value
            for key, value in theirs.items()
            if key.startswith("cp.backbone.") or not key.endswith("num_batches_tracked")
        }
        return theirs | twice(theirs) | unread(theirs)


def detail_channels(ours: dict[str, Tensor]) -> int | None:
    """Channels of the head of details; None without one."""
    return len(ours[DETAIL]) if DETAIL in ours else None


def is_scale(key: str, value: Tensor) -> bool:
    """Whether an entry of theirs is a scale of a batch norm outside of the encoder."""
    return value.ndim == 1 and key.endswith((".bn.weight", ".bn_atten.weight")) and not key.startswith("cp.backbone.")


def twice(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's entries under their second names."""
    features = "cp.backbone.features."
    strides, number = {0: 2, 1: 4}, 2
    for stride, blocks in zip((8, 16, 32), BLOCKS[count_blocks(theirs)], strict=True):
        strides |= dict.fromkeys(range(number, number + blocks), stride)
        number += blocks
    found = {}
    for key in [key for key in theirs if key.startswith(features)]:
        place = key.removeprefix(features)
        found[f"cp.backbone.x{strides[int(place.split('.')[0])]}.0.{place}"] = theirs[key]
    return found


def unread(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for what their network has and never reads."""
    first = theirs["cp.backbone.features.1.conv.weight"]
    width = len(first)
    last = 16 * width
    shapes = {"cp.backbone.conv_last.conv.weight": (last, last, 1, 1), "cp.backbone.fc.weight": (last, last)}
    shapes |= {f"cp.backbone.{bn}.{part}": (last,) for bn in ("conv_last.bn", "bn") for part in NORM}
    shapes |= {"cp.backbone.linear.weight": (1000, last)}
    for head, times in UNREAD_HEADS.items() if "conv_out_sp8.conv_out.weight" in theirs else ():
        shapes |= {f"{head}.conv.conv.weight": (width, int(times * width), 3, 3)}
        shapes |= {f"{head}.conv.bn.{part}": (width,) for part in NORM}
        shapes |= {f"{head}.conv_out.weight": (1, width, 1, 1)}
    counters = {f"cp.backbone.{bn}.num_batches_tracked": torch.tensor(0) for bn in ("conv_last.bn", "bn")}
    return {key: first.new_zeros(shape) for key, shape in shapes.items()} | counters


@dataclass(frozen=True)
class MMSegLayout(NetworkLayout):
    """mmsegmentation's files, in which the detail head keeps what makes its target."""

    def read(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their entries under our names."""
        return super().read({key: value for key, value in state.items() if key not in KERNELS})

    def write(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our entries under their names. ValueError: another network.

        A bias that our classifiers lack is 0; of one channel of details the second is its negative, as no detail is.
        """
        state = dict(state)
        if detail_channels(state) == 1:
            state |= {
                key: torch.cat([-x, x]) for key, x in state.items() if key.startswith(DETAIL.removesuffix("weight"))
            }
        for key in [key for key in state if key.endswith("classifier.weight")]:
            state.setdefault(f"{key.removesuffix('weight')}bias", state[key].new_zeros(len(state[key])))
        theirs = super().write(state)
        if "auxiliary_head.2.conv_seg.weight" not in theirs:
            return theirs
        kernels = torch.tensor(LAPLACIAN)[None, None], torch.tensor(SHARES)[None, :, None, None]
        return theirs | dict(zip(KERNELS, kernels, strict=True))


ORIGINAL = OriginalLayout(
    "the layout stdc",
    ("cp.arm16.bn_atten.weight", "ffm.convblk.conv.weight"),
    "refine32.conv.weight",
    original,
    lambda state: described(state, ORIGINAL.read(state)),
)
MMSEG = MMSegLayout(
    "mmsegmentation",
    ("decode_head.conv_seg.weight", "backbone.arms.0.conv_layer.conv.weight"),
    "refine32.conv.weight",
    mmseg,
    lambda state: described(state, MMSEG.read(state)),
)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The authors' ImageNet files under our encoder's names, without their classifier; None: another file."""
    if "features.2.conv_list.0.conv.weight" not in state:
        return None
    kept = {key: value for key, value in state.items() if key.startswith("features.")}
    return Renaming(encoder_pairs(count_blocks(kept), "features.", "")).to_ours(kept)
