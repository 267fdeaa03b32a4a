"""Weights and inputs of the recorded network cases: functions of an entry's name and shape alone."""

import zlib

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


def filled(case: dict) -> dict[str, Tensor]:
    """The checkpoint of a case: its entries filled, then changed as its extra fields say.

    fill_scale: [{suffix, factor}]. overrides: key -> {multiply: factor}. aliases: key -> the key whose draw it has.
    """
    aliases = case.get("aliases", {})
    entries = [*case["entries"], *case.get("own_entries", []), *case.get("lora_entries", [])]
    state = {key: fill_tensor(aliases.get(key, key), shape) for key, shape in entries}
    for rule in case.get("fill_scale", []):
        for key in state:
            if key.endswith(rule["suffix"]):
                state[key] = state[key] * np.float32(rule["factor"])
    for key, change in case.get("overrides", {}).items():
        state[key] = state[key] * np.float32(change["multiply"])
    return {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
