"""Checkpoints of other codes: whose a file is, which network it fits, and its entries under our names and back."""

import re
from types import ModuleType

from torch import Tensor

from ._layouts import (
    _bisenetv2,
    _dual_resolution,
    _efficientnet,
    _efficientvit,
    _segformer,
    _segnext,
    _stdc,
    _topformer,
    aicsd,
    cirkd,
    mmseg,
    sam,
    segkd,
    torchvision,
    trikd,
    tsic,
    unimatch,
)
from ._layouts._layout import Described, NetworkLayout
from ._layouts._segformer import SegFormerLayout
from ._state_dicts import bare

Layout = ModuleType | SegFormerLayout | NetworkLayout  # what has fits, describe, read and write

# a file is asked in this order whose it is; our own layout has no marks and comes last
LAYOUTS = {
    "tsic": tsic,
    "sam": sam,
    "trikd": trikd,
    "huggingface": _segformer.HUGGINGFACE,
    "nvidia": _segformer.NVIDIA,
    "segnext": _segnext.ORIGINAL,
    "bisenetv2": _bisenetv2.ORIGINAL,
    "pidnet": _dual_resolution.PIDNET,
    "ddrnet": _dual_resolution.DDRNET,
    "stdc": _stdc.ORIGINAL,
    "efficientvit": _efficientvit.ORIGINAL,
    "topformer": _topformer.ORIGINAL,
    "mmseg": mmseg,
    "cirkd": cirkd,
    "aicsd": aicsd,
    "unimatch": unimatch,
    "torchvision": torchvision,
    "segkd": segkd,
}
# those that have files of an encoder alone
ENCODER_FILES = (trikd, _segformer, _segnext, _bisenetv2, _dual_resolution, _stdc, _efficientvit, _topformer,
                 _efficientnet, mmseg, cirkd, unimatch, torchvision)  # fmt: skip
# what training modules call the network they train; what they call the moving averages of one
WHOLE = ("model", "net", "network")
AVERAGE = re.compile(r"((model|net|network|student)_)?ema(_(model|net|network|student))?")
# those whose files may hold several networks that the layout itself takes apart
PARTS = {"tsic": tsic.PARTS}


def guess(state: dict[str, Tensor], part: str | None = None) -> str:
    """Name of the layout whose keys these are. ValueError: nobody's, or several networks in one file and no part."""
    state = one_network(state, part)
    for name, layout in LAYOUTS.items():
        if layout.fits(state):
            return name
    keys = ", ".join(list(state)[:3]) or "nothing"
    hint = "; of segmentation_models_pytorch the encoder alone can be taken, as args.backbone_weights" * is_of_smp(
        state
    )
    raise ValueError(
        f"these are the keys of no code known here (the first are {keys}){hint}; the layouts are {', '.join(LAYOUTS)}"
    )


def describe(state: dict[str, Tensor], layout: str, part: str | None = None) -> Described:
    """The network that a checkpoint of this layout fits. See `read` for the arguments."""
    module, state, chosen = _opened(state, layout, part)
    return module.describe(state, **chosen)


def read(state: dict[str, Tensor], layout: str, part: str | None = None) -> dict[str, Tensor]:
    """The entries of a checkpoint under our names.

    Args:
        layout: a name in LAYOUTS.
        part: which network of a file that holds several; None: the only one, or the student of a distillation.

    Raises:
        ValueError: no such layout or part, or not a file of this layout.
    """
    module, state, chosen = _opened(state, layout, part)
    return module.read(state, **chosen)


def write(state: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Our entries under the names of another code. ValueError: it has no such network."""
    return _layout(layout).write(state)


def read_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries of an encoder's ImageNet file under our names, as they are where no other code's are recognised."""
    for layout in ENCODER_FILES:
        found = layout.backbone(state)
        if found is not None:
            return found
    return state


def encoder_of_network(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The encoder's entries out of a whole network's, of ours or of another code; None: it is an encoder's alone."""
    if is_of_smp(state):
        own = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
        return read_backbone(own)
    try:
        ours = read(state, guess(state))
    except ValueError:  # nobody's keys
        return None
    encoder = {key.removeprefix("backbone."): value for key, value in ours.items() if key.startswith("backbone.")}
    return encoder if 0 < len(encoder) < len(ours) else None


def is_of_smp(state: dict[str, Tensor]) -> bool:
    """Whether these are a network of segmentation_models_pytorch, whose decoders are not here."""
    return {"encoder", "decoder", "segmentation_head"} <= {key.split(".")[0] for key in state}


def constants_of_backbone(state: dict[str, Tensor]) -> dict | None:
    """The constants of an encoder's file of another code; None where they are those of its kind."""
    return cirkd.MOBILEVIT_IMAGES if cirkd.is_mobilevit(state) else None


def one_network(state: dict[str, Tensor], part: str | None = None) -> dict[str, Tensor]:
    """The entries of one network out of a file that may hold several, without what stands before their names.

    See `found_network` for what is taken.

    Raises:
        ValueError: no such part, or several networks trained together and None asked for.
    """
    return found_network(state, part)[0]


def found_network(state: dict[str, Tensor], part: str | None) -> tuple[dict[str, Tensor], str | None, str]:
    """The entries of one network, the part that is still to be looked for, and what stood before their names.

    Several are the student and the teacher of mmsegmentation's distillers (`student.`, `teacher.`, of which None takes
    the student), networks trained together (`model_tiny.`, `model_cnn.`, ...; see read_weights), moving averages
    (`ema.`, `model_ema.`, ...). Where most entries but those of averages are a training module's network (`model.`,
    `net.`, as Lightning saves them), what it holds beside it, such as an average or the buffers of a loss, is left out.

    Raises:
        ValueError: no such part, or several networks trained together and None asked for.
    """
    taken, passed = "", []
    while True:
        heads = [key.split(".")[0] for key in state if "." in key]
        beside = len(state) - sum(AVERAGE.fullmatch(head) is not None for head in heads)
        wrapped = [head for head in dict.fromkeys(heads) if head in WHOLE and 2 * heads.count(head) > beside]
        parts = sorted(head for head in {*heads} if head in ("student", "teacher") or AVERAGE.fullmatch(head))
        together = sorted({head for head in heads if head.startswith("model_")} - {*parts})
        known = {head: head for head in [*parts, *wrapped]}
        known |= {head.removeprefix("model_"): head for head in together} if "student" not in known else {}
        if part is not None and part in known:
            name, part = part, None
        elif part is not None and known and not wrapped:
            raise ValueError(f"this file has no part {part!r}; it has: {', '.join(known)}")
        else:
            name = next((head for head in ("student", *wrapped, "teacher") if head in known), None)
            if name is None and len(together) > 1:
                raise ValueError(
                    f"this file holds several networks: say which part is meant, one of {', '.join(known)}"
                )
            if name is None and (together or len({*heads}) == 1):  # an average is taken where it is all there is
                name = next(iter(known), None)
            if name is None and len({*heads}) == 1 == len(state) / len(heads) and _is_known_inside(state, heads[0]):
                name, known = heads[0], {heads[0]: heads[0]}  # what a training module of its own calls it
        if name is None:
            if passed and part is not None and not any(part in known for known in PARTS.values()):
                raise ValueError(f"this file has no part {part!r}; it has: {', '.join(passed)}")
            return state, part, taken
        passed += known if len(known) > 1 else []
        prefix = f"{known[name]}."
        taken += prefix
        state = bare({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


def _is_known_inside(state: dict[str, Tensor], head: str) -> bool:
    """Whether entries are those of a network known here without the word they all begin with, and not with it."""
    inner = {key.removeprefix(f"{head}."): value for key, value in state.items()}
    return not any(layout.fits(state) for layout in LAYOUTS.values()) and any(
        layout.fits(inner) for layout in LAYOUTS.values()
    )


def _layout(layout: str) -> Layout:
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}; there are: {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def _opened(
    state: dict[str, Tensor], layout: str, part: str | None
) -> tuple[Layout, dict[str, Tensor], dict[str, str]]:
    """The layout, the entries of the part, and the part where the layout itself takes one."""
    module, (opened, part, _) = _layout(layout), found_network(state, part)
    parts = PARTS.get(layout, ())
    if part is None:
        chosen = {}
    elif part in parts:
        chosen = {"part": part}
    else:
        known = ", ".join(parts) or "none"
        raise ValueError(f"this file of the layout {layout} has no part {part!r}; its parts: {known}")
    if not module.fits(opened):
        raise ValueError(f"this is no file of the layout {layout}: its first keys are {', '.join(list(opened)[:3])}")
    return module, opened, chosen
