"""ImageNet files of EfficientNets in the style of lukemelas/EfficientNet-PyTorch, under timm's names.

That code numbers all blocks in one row, timm those of each stage; it names the layers of a block by what they do.
"""

import re

from torch import Tensor

# theirs -> timm's, of the layers outside the blocks
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# the same of a block; the first stage's expand nothing, so that their layers have other names at timm
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"} | SQUEEZE
EXPANDED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"} | SQUEEZE
EXPANDED |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
KEY = re.compile(r"(?:_blocks\.(?P<block>\d+)\.)?(?P<layer>_\w+)\.(?P<tensor>\w+)")


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The entries of an encoder's file under timm's names, None: not this code's."""
    if not is_theirs(state):
        return None
    places = _places(state)
    return {_name(key, state, places): value for key, value in state.items()}


def is_theirs(state: dict[str, Tensor]) -> bool:
    """Whether the entries have this code's names."""
    return {"_conv_stem.weight", "_blocks.0._project_conv.weight"} <= state.keys()


def _places(state: dict[str, Tensor]) -> list[str]:
    """Stage and index of each block: a stage is a row of blocks with the same output channels."""
    places, stage, index, last = [], -1, 0, None
    while (projection := state.get(f"_blocks.{len(places)}._project_conv.weight")) is not None:
        stage, index = (stage, index + 1) if len(projection) == last else (stage + 1, 0)
        last = len(projection)
        places.append(f"{stage}.{index}")
    return places


def _name(key: str, state: dict[str, Tensor], places: list[str]) -> str:
    """timm's name of an entry; a key of no known layer keeps its own, so that it is reported as unexpected."""
    found = KEY.fullmatch(key)
    if found is None:
        return key
    block, layer, tensor = found.group("block", "layer", "tensor")
    if block is None:
        return f"{OUTSIDE.get(layer, layer)}.{tensor}"
    expands = f"_blocks.{block}._expand_conv.weight" in state
    return f"blocks.{places[int(block)]}.{(EXPANDED if expands else PLAIN).get(layer, layer)}.{tensor}"
