"""Weights and inputs of recorded networks: functions of an entry's name and shape alone, changed as a case says."""

import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def fill_tensor(key: str, shape: list[int]) -> np.ndarray:
    """The value a recorded case gives an entry: scales around 1, small offsets, weights that keep the variance."""
    draws = np.random.default_rng(zlib.crc32(key.encode()))
    is_scale = key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if is_scale:
        return draws.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) < 2:
        return (0.1 * draws.standard_normal(shape)).astype(np.float32)
    deviation = np.sqrt(2.0 / int(np.prod(shape[1:])))
    return (draws.standard_normal(shape) * deviation).astype(np.float32)


def fill_input(shape: list[int], name: str = "input") -> Tensor:
    """The images, or one of several input maps, of a case."""
    draws = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy(draws.standard_normal(shape).astype(np.float32))


def fill_state(case: dict) -> dict[str, Tensor]:
    """The checkpoint of a case: its entries filled, then multiplied as its other fields say.

    Fields:
        entries, own_entries, lora_entries: [[key, shape]] or {key: shape}.
        aliases: key -> the key whose value it has.
        fill_scale: one factor for all entries, {end of a key: factor}, or one or several rules {prefix, suffix,
            factor}.
        overrides: key -> its further factor, as {multiply: factor} or alone.
    """
    aliases, overrides = case.get("aliases") or {}, case.get("overrides") or {}
    rules = [*rules_of(case.get("fill_scale") or []), *({"key": key} | factor_of(x) for key, x in overrides.items())]
    state = {}
    for kind in ("entries", "own_entries", "lora_entries"):
        for key, shape in pairs_of(case.get(kind) or []):
            drawn = aliases.get(key, key)
            value = fill_tensor(drawn, shape)
            for rule in rules if value.dtype == np.float32 else ():
                if applies(rule, drawn):
                    value = value * np.float32(rule["factor"])
            state[key] = torch.from_numpy(np.array(value))
    return state


def pairs_of(entries: dict | list) -> Iterable[tuple[str, list[int]]]:
    return entries.items() if isinstance(entries, dict) else entries


def rules_of(scale: float | dict | list) -> list[dict]:
    if isinstance(scale, list):
        return scale
    if not isinstance(scale, dict):
        return [{"factor": scale}]
    return [scale] if "factor" in scale else [{"suffix": end, "factor": factor} for end, factor in scale.items()]


def factor_of(change: float | dict) -> dict[str, float]:
    if not isinstance(change, dict):
        return {"factor": change}
    assert change.keys() == {"multiply"}, f"an override multiplies, this one says {change}"
    return {"factor": change["multiply"]}


def applies(rule: dict, key: str) -> bool:
    return (
        rule.get("key", key) == key and key.startswith(rule.get("prefix", "")) and key.endswith(rule.get("suffix", ""))
    )
