"""SegFormer in the codes that have it: the names of its entries, and the few tensors they store in another form.

NVIDIA (the paper's own code) and HUGGINGFACE (the names in its files; transformers 5 has others in memory) are whole
layouts; CIRKD (the encoder's names are those of the paper's code, nothing has a prefix) and MMSEG serve those of the
same name.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from .._mit import SIZES
from ._layout import Described, Renaming

# a row is a layer: its name here, in the paper's code, in mmseg and in huggingface; first those of a block, then those
# of a stage, which is the i-th from 0 and the n-th from 1
BLOCK = [
    ("norm1", "norm1", "norm1", "layer_norm_1"),
    ("attention.query", "attn.q", "attn.q", "attention.self.query"),
    ("attention.key_value", "attn.kv", "attn.kv", "attention.self.kv"),
    ("attention.project", "attn.proj", "attn.attn.out_proj", "attention.output.dense"),
    ("attention.reduce", "attn.sr", "attn.sr", "attention.self.sr"),
    ("attention.reduce_norm", "attn.norm", "attn.norm", "attention.self.layer_norm"),
    ("norm2", "norm2", "norm2", "layer_norm_2"),
    ("mlp.expand", "mlp.fc1", "ffn.layers.0", "mlp.dense1"),
    ("mlp.depthwise", "mlp.dwconv.dwconv", "ffn.layers.1", "mlp.dwconv.dwconv"),
    ("mlp.project", "mlp.fc2", "ffn.layers.4", "mlp.dense2"),
]
BLOCKS = ("blocks.#", "block{n}.#", "layers.{i}.1.#", "block.{i}.#")
STAGE = [
    ("embed.conv", "patch_embed{n}.proj", "layers.{i}.0.projection", "patch_embeddings.{i}.proj"),
    ("embed.norm", "patch_embed{n}.norm", "layers.{i}.0.norm", "patch_embeddings.{i}.layer_norm"),
    ("norm", "norm{n}", "layers.{i}.2", "layer_norm.{i}"),
    *(tuple(f"{place}.{name}" for place, name in zip(BLOCKS, row)) for row in BLOCK),
]
# a classifier that the paper's head has from the class it extends and never reads: its width, its names
UNREAD_WIDTH, UNREAD = 128, ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias")


@dataclass(frozen=True)
class SegFormerLayout:
    """How one code saves a SegFormer.

    Attributes:
        code: its name, that of the layout.
        column: of its encoder's names in STAGE. prefix: what precedes these names.
        branches: its name of a stage's layer in the decoder, {i} counts stages from 0 and {n} from 1.
        fuse, norm, classifier: its names of the layers after them.
        implied: arguments that its networks have beside their weights. normalize: the constants of its images.
    """

    code: str
    column: int
    prefix: str
    branches: str
    fuse: str
    norm: str
    classifier: str
    implied: dict
    normalize: str = "imagenet"

    def fits(self, state: dict[str, Tensor]) -> bool:
        """Whether these are the entries of a whole SegFormer of this code."""
        return f"{self.fuse}.weight" in state and self._first(self.prefix) in state

    def is_ours(self, state: dict[str, Tensor]) -> bool:
        """Whether these are the entries of our SegFormer."""
        return is_ours(state)

    def describe(self, state: dict[str, Tensor]) -> Described:
        """The SegFormer these entries fit."""
        ours = self.read(state)
        args = {
            "backbone": mit_name(ours),
            "width": ours["decoder.fuse.weight"].shape[0],
            "branches": "conv" if "decoder.branches.0.conv.weight" in ours else "linear",
            "fuse_bias": "decoder.fuse.bias" in ours,
        }
        return Described("segformer", ours["classifier.weight"].shape[0], args | self.implied, self.normalize)

    def read(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their entries under our names, in our form."""
        ours = self._renaming().to_ours(self._our_form(state))
        if self.code != "mmseg" and "decoder.fuse.weight" in ours:
            ours["decoder.fuse.weight"] = turned(ours["decoder.fuse.weight"])
        return ours

    def write(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our entries under their names, in their form; a classifier that their head never reads as zeros.

        Raises:
            ValueError: another network, or the decoder is not as in this code.
        """
        if not is_ours(state):
            raise ValueError(f"the layout {self.code} has entries for SegFormer only: choose another one")
        branches = "conv" if "decoder.branches.0.conv.weight" in state else "linear"
        bias = "decoder.fuse.bias" in state
        if (branches, bias) != (("conv", False) if self.code == "mmseg" else ("linear", self.code == "cirkd")):
            raise ValueError(
                f"the layout {self.code} has no entries for a SegFormer with branches: {branches} and fuse_bias: "
                f"{str(bias).lower()}; mmseg takes conv and false, cirkd linear and true, the others linear and false"
            )
        state = dict(state)
        if self.code != "mmseg":
            state["decoder.fuse.weight"] = turned(state["decoder.fuse.weight"])
        theirs = self._their_form(self._renaming().write(state, self.code))
        if self.code == "nvidia":
            classifier = state["classifier.weight"]
            weight = classifier.new_zeros(len(classifier), UNREAD_WIDTH, 1, 1)
            theirs |= zip(UNREAD, (weight, weight.new_zeros(len(weight))), strict=True)
        return theirs

    def encoder(self, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor] | None:
        """An ImageNet file of the encoder alone, behind a prefix, under our backbone's names; None for any other."""
        if f"{self.fuse}.weight" in state or self._first(prefix) not in state:
            return None
        kept = {key: value for key, value in state.items() if not key.startswith(("head.", "classifier."))}
        return Renaming(self._encoder_pairs(prefix, "")).to_ours(self._our_form(kept))

    def _first(self, prefix: str) -> str:
        """The encoder's first entry."""
        return prefix + STAGE[0][self.column].format(i=0, n=1) + ".weight"

    def _encoder_pairs(self, theirs: str, ours: str) -> list[tuple[str, str]]:
        """(theirs, ours) for Renaming of the encoder's entries under the two prefixes."""
        return [
            (theirs + row[self.column].format(i=i, n=i + 1) + ".*", f"{ours}stages.{i}.{row[0]}.*")
            for i in range(4)
            for row in STAGE
        ]

    def _renaming(self) -> Renaming:
        pairs = [(self.branches.format(i=i, n=i + 1), f"decoder.branches.{i}") for i in range(4)]
        pairs += [(self.fuse, "decoder.fuse"), (self.norm, "decoder.norm"), (self.classifier, "classifier")]
        decoder = [(f"{theirs}.*", f"{ours}.*") for theirs, ours in pairs]
        return Renaming(self._encoder_pairs(self.prefix, "backbone.") + decoder)

    def _our_form(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their entries in our form: one matrix for query, one for keys and values; linear layers as matrices."""
        code, found = self.code, {}
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

    def _their_form(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `_our_form`."""
        code, found = self.code, {}
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


def constants(norm_eps: float, reduction_eps: float, dropout: float = 0.1, align_corners: bool = False) -> dict:
    """Arguments that no entry tells."""
    return {"dropout": dropout, "norm_eps": norm_eps, "reduction_eps": reduction_eps, "align_corners": align_corners}


CIRKD = SegFormerLayout(
    "cirkd", 1, "", "linear_c{n}.proj", "linear_fuse.0", "linear_fuse.1", "linear_pred",
    constants(1e-6, 1e-5, dropout=0.0, align_corners=True), normalize="cirkd",
)  # fmt: skip
NVIDIA = SegFormerLayout(
    "nvidia", 1, "backbone.", "decode_head.linear_c{n}.proj", "decode_head.linear_fuse.conv",
    "decode_head.linear_fuse.bn", "decode_head.linear_pred", constants(1e-6, 1e-5),
)  # fmt: skip
MMSEG = SegFormerLayout(
    "mmseg", 2, "backbone.", "decode_head.convs.{i}", "decode_head.fusion_conv.conv", "decode_head.fusion_conv.bn",
    "decode_head.conv_seg", constants(1e-6, 1e-6),
)  # fmt: skip
HUGGINGFACE = SegFormerLayout(
    "huggingface", 3, "segformer.encoder.", "decode_head.linear_c.{i}.proj", "decode_head.linear_fuse",
    "decode_head.batch_norm", "decode_head.classifier", constants(1e-5, 1e-5),
)  # fmt: skip


def is_ours(state: dict[str, Tensor]) -> bool:
    """Whether these are the entries of our SegFormer."""
    return "decoder.fuse.weight" in state and "backbone.stages.0.embed.conv.weight" in state


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """An ImageNet file of the encoder alone under our backbone's names, classifier dropped; None for any other file."""
    found = (CIRKD.encoder(state, ""), MMSEG.encoder(state, ""), HUGGINGFACE.encoder(state, HUGGINGFACE.prefix))
    return next((ours for ours in found if ours is not None), None)


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


def turned(weight: Tensor) -> Tensor:
    """The fusing 1x1 with its four blocks of input channels in the opposite order: ours has stage1 first."""
    return torch.cat(weight.chunk(4, dim=1)[::-1], dim=1)
