"""Segment Anything's files: Meta's, OpenMMLab's, Hugging Face's SamModel and timm's samvit; written as Meta's.

A file may hold the image encoder alone, and low-rank updates of its projections beside them. What a network has no
use for, and position tables of another grid, are matters of the network: see models/sam.py:fitted.
"""

from torch import Tensor

from .._lora import wrapped
from ._layout import Described, Renaming
from ._sam_encoder import HUGGINGFACE, META, OPENMMLAB, TIMM, encoder_arguments

# an entry that every file of a code has and no other code's file -> its names
CODES = {
    "image_encoder.patch_embed.proj.weight": Renaming(META),
    "image_encoder.patch_embed.projection.weight": Renaming(OPENMMLAB),
    "vision_encoder.patch_embed.projection.weight": Renaming(HUGGINGFACE),
    # timm's other vision transformers have no relative positions
    "blocks.0.attn.rel_pos_h": Renaming(TIMM),
}
# Hugging Face stores the frequencies of its positions twice
COPY = "shared_image_embedding.positional_embedding"


def fits(state: dict[str, Tensor]) -> bool:
    """Whether these are the keys of a SAM, whole or its encoder alone, and of nothing around it."""
    return any(mark in state for mark in CODES) and not any(key.startswith("decode_head.") for key in state)


def describe(state: dict[str, Tensor]) -> Described:
    """The encoder without a head: the file knows no classes, and its prompt encoder serves a guidance one asks for."""
    args = {"head": None} | encoder_arguments(read(state))
    return Described("sam", 0, args, normalize="sam")


def read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their entries under our names."""
    names = next(names for mark, names in CODES.items() if mark in state)
    return projections_in_updates(names.to_ours({key: value for key, value in state.items() if key != COPY}))


def projections_in_updates(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entries in which projections with low-rank updates beside them are named as the part of these that they are."""
    return wrapped(state) if any(".attn.qkv.linear_a_" in key for key in state) else state


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our encoder, and prompt encoder and mask decoder where there are such, under Meta's names.

    Raises:
        ValueError: no SAM, one with a head, or with low-rank updates that are not merged.
    """
    if "backbone.blocks.0.attn.rel_pos_h" not in state:
        raise ValueError("the layout sam holds SAM's encoder, and this network has another one")
    others = sorted({key.split(".")[0] for key in state} - {"backbone", "prompt_encoder", "mask_decoder"})
    if others:
        raise ValueError(f"Meta's files of SAM have no names for {', '.join(others)}; write the layout tsic or segkd")
    if any(".linear_a_" in key for key in state):
        raise ValueError("Meta's files of SAM have no low-rank updates: call merge_lora() on the network first")
    return CODES["image_encoder.patch_embed.proj.weight"].to_theirs(state)
