"""The sets of weights in what a file holds: which there are, which is meant, and their names without wrappers."""

import logging
import re

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# where training codes put the state dict in a file, in the order they are looked for
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
DEEPEST = 4  # state dicts are looked for in dicts inside of dicts down to here
# what DataParallel puts before the names, and what torch.compile puts before those of what it compiles
PARALLEL, COMPILED = re.compile(r"^module\."), re.compile(r"(?<![^.])_orig_mod\.")
# what torch's AveragedModel, and mmengine's, keep beside the network's entries, all of them under `module.`
COUNTERS = ("n_averaged", "steps")

State = dict[str, Tensor]


def sets_in(content: object, depth: int = 0) -> dict[str, State]:
    """Every set of weights in what a file holds, by the keys it lies under joined by dots; "" is a bare one.

    Sets are looked for right under any key, further down only under WRAPPERS: optimizers are full of tensors too.
    """
    if isinstance(content, nn.Module):
        content = {key: value for key, value in content.state_dict().items() if isinstance(value, Tensor)}
    if _is_state(content):
        return {"": bare(content)}
    found: dict[str, State] = {}
    for key, value in content.items() if isinstance(content, dict) and depth < DEEPEST else ():
        if key in WRAPPERS or (isinstance(key, str) and (_is_state(value) or isinstance(value, nn.Module))):
            found |= {f"{key}.{name}".strip("."): state for name, state in sets_in(value, depth + 1).items()}
    return found


def chosen(sets: dict[str, State], part: str | None, source: str) -> tuple[State, str | None]:
    """The set that is meant, and the part that is still to be looked for in it.

    Sets of a student and a teacher, of networks trained together (`model_tiny`, `model_cnn`, ...) or of the parts of a
    BiSeNetV2 (`detail`, `segment`, ...) are given together, each under `<its key>.`, as they lie in other files; see
    models/_checkpoints.py:one_network.

    Raises:
        ValueError: several sets, and nothing says which.
    """
    name = next((word for word in WRAPPERS for key in sets if key.split(".")[0] == word), None)
    inside = {key: state for key, state in sets.items() if name in key.split(".")[:1]} or sets
    if part in sets:
        name = part
    elif len(inside) == 1:
        name = next(iter(inside))
    else:
        last = {key.rpartition(".")[2]: state for key, state in inside.items()}
        together = "student" in last or "teacher" in last or all(key.startswith("model_") for key in last)
        if together or {"detail", "segment"} <= last.keys():  # BiSeNetV2's encoder is saved part by part
            return {f"{key}.{name}": value for key, state in last.items() for name, value in state.items()}, part
        raise ValueError(
            f"{source} holds several sets of weights; say which is meant with part: one of {', '.join(sets)}"
        )
    others = [key for key in sets if key != name]
    if others:
        logger.info("%s: of %s, the weights under %s are taken (part: picks others)", source, ", ".join(sets), name)
    return sets[name], None if part == name else part


def why_none(content: object) -> str:
    """What a file holds in which no set of weights was found, for an error."""
    if isinstance(content, dict) and content and not any(isinstance(key, str) for key in content):
        return "holds no state dict: its keys are no names (the first is " + repr(next(iter(content)))[:40] + ")"
    where = f"bare or under one of {', '.join(WRAPPERS)}, no deeper than {DEEPEST} dicts"
    return f"holds no state dict: a dict of names to tensors is needed, {where}"


def refuse_unreadable(state: State, source: str) -> None:
    """ValueError for tensors that are not plain numbers in memory: sparse, quantised, or without data."""
    kinds = {
        "sparse": [key for key, value in state.items() if value.layout != torch.strided],
        "quantised": [key for key, value in state.items() if value.is_quantized],
        "without data (on the meta device)": [key for key, value in state.items() if value.is_meta],
    }
    for kind, keys in kinds.items():
        if keys:
            raise ValueError(
                f"{source} holds tensors that are {kind}: {shown(keys)}; save the plain ones (to_dense(), dequantize())"
            )


def bare(state: State) -> State:
    """The entries without what DataParallel and torch.compile put before or into their names.

    Raises:
        ValueError: two entries get the same name.
    """
    renamed: State = {}
    counters = [key for key in COUNTERS if key in state]
    averaged = all(PARALLEL.match(key) for key in state if key not in counters)
    for key, value in state.items():
        if averaged and key in counters:
            continue
        name, before = key, None
        while name != before:
            name, before = PARALLEL.sub("", COMPILED.sub("", name)), name
        if name in renamed:
            raise ValueError(f"two entries of this file mean {name}; one of them is {key}")
        renamed[name] = value
    return renamed


def shown(keys: list[str], most: int = 3) -> str:
    """The first of some keys, and how many more there are."""
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )
