"""TSIC's checkpoints, a fork of mmsegmentation: SAM with neck and head, the teacher, and the student beside it."""

from typing import Literal

from torch import Tensor

from . import mmseg
from ._layout import Described, Renaming
from ._sam_encoder import META, OPENMMLAB, encoder_arguments
from .sam import projections_in_updates

PARTS = ("teacher", "student")

STUDENT = {
    "Prompt_backbone.": "backbone.",
    "Prompt_head.": "decode_head.",
    "Prompt_auxiliary_head.": "auxiliary_head.",
}
DECODER = [
    ("neck.lateral_convs.#.conv.*", "neck.laterals.#.*"),
    ("neck.convs.#.conv.*", "neck.outputs.#.*"),
    ("decode_head.att_conv.*", "prompt_attention.*"),
    *mmseg.UPER,
    ("decode_head.conv_seg.*", "classifier.*"),
]
SAM_PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
# the module of the low-rank updates holds SAM again: each of its entries stands in the file twice
ALIAS = "lora_SAM.sam."


def fits(state: dict[str, Tensor]) -> bool:
    """Whether these are the keys of TSIC's model, or of its teacher or its student alone."""
    return "decode_head.att_conv.conv.weight" in state or any(key.startswith("Prompt_backbone.") for key in state)


def describe(state: dict[str, Tensor], part: Literal["teacher", "student"] = "teacher") -> Described:
    """The part's network; the teacher with the released prompt guidance, which has no influence on its scores."""
    if part == "student":
        return mmseg.describe(_student(state))
    ours = read(state)
    if "backbone.pos_embed" not in ours:
        raise ValueError("this file of TSIC holds no teacher: give part: student")
    num_classes, width = ours["classifier.weight"].shape[:2]
    args = {
        "head": "uper",
        "head_width": width,
        "neck_width": ours["neck.laterals.0.weight"].shape[0],
        "prompt_guidance": "released" if "mask_decoder.mask_tokens.weight" in ours else "none",
    }
    return Described("sam", num_classes, args | encoder_arguments(ours), normalize="sam")


def read(state: dict[str, Tensor], part: Literal["teacher", "student"] = "teacher") -> dict[str, Tensor]:
    """Their entries under our names; those of the other part and the aliases are left out."""
    if part == "student":
        return mmseg.read(_student(state))
    teacher = {key.removeprefix("SAM."): value for key, value in state.items() if not key.startswith((ALIAS, *STUDENT))}
    # the recorded cases have SAM's entries under Meta's names
    names = META if "image_encoder.patch_embed.proj.weight" in teacher else OPENMMLAB
    return projections_in_updates(Renaming(names + DECODER).to_ours(teacher))


def write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's entries under TSIC's names, with the aliases where there are low-rank updates.

    Raises:
        ValueError: no such teacher, one without SAM's prompt encoder, or updates with a factor.
    """
    for part in ("backbone.blocks.0.attn.rel_pos_h", "neck.laterals.0.weight", "mask_decoder.mask_tokens.weight"):
        if part not in state:
            raise ValueError(
                f"TSIC's teacher is a SAM with head: uper and prompt_guidance: released; this network has no {part}"
            )
    if any(key.endswith(".qkv.factor") for key in state):
        raise ValueError("TSIC's low-rank updates have no factor (lora_alpha): call merge_lora() on the network first")
    named = Renaming(OPENMMLAB + DECODER).to_theirs(state)
    theirs = {f"SAM.{key}" if key.startswith(SAM_PARTS) else key: value for key, value in named.items()}
    if any(".linear_a_" in key for key in theirs):
        theirs |= {key.replace("SAM.", ALIAS, 1): x for key, x in theirs.items() if key.startswith("SAM.")}
    return theirs


def _student(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The student's entries under mmsegmentation's names."""
    named = {
        ours + key.removeprefix(theirs): value
        for key, value in state.items()
        for theirs, ours in STUDENT.items()
        if key.startswith(theirs)
    }
    if not named:
        raise ValueError("this file of TSIC holds no student (entries Prompt_backbone.*)")
    return named
