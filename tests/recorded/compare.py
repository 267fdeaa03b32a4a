"""When a computed array is the recorded one."""

import itertools
from collections.abc import Iterable

import numpy as np

NEAR = {"relative": 1e-9}  # what was recorded in float64
NOISE = 1e-12  # of the inputs' scale: a recorded array that stays below it is what rounding makes of zero


def noise_of(inputs: Iterable[np.ndarray]) -> float:
    """The largest magnitude that counts as zero beside these inputs; beside none, or integers, they are taken as 1."""
    floating = [np.abs(x).max(initial=0.0) for x in inputs if np.issubdtype(x.dtype, np.floating)]
    return NOISE * (max(floating, default=0.0) or 1.0)


def compare(name: str, ours: np.ndarray, wanted: np.ndarray, tolerance: float | dict, noise: float) -> str | None:
    """What is wrong with one array, or None.

    Args:
        tolerance: see parity.py. noise: an array of no larger magnitude is compared with zero.
    """
    if ours.shape != wanted.shape:
        return f"shape {ours.shape} instead of {wanted.shape}"
    if isinstance(tolerance, dict) and "relative" not in tolerance:
        tolerance = tolerance.get(name, NEAR)
    exact = wanted.dtype.kind in "iub"
    ours, wanted = ours.astype(np.float64), wanted.astype(np.float64)
    undefined = np.isnan(wanted)
    # with every pixel ignored the originals' losses are NaN and this project's 0, with a zero gradient
    zero_will_do = name == "loss" or name.startswith(("grad:", "term:"))
    wrong = undefined & ~np.isnan(ours) & ~(zero_will_do & (ours == 0)) | ~undefined & np.isnan(ours)
    if wrong.any():
        return f"{int(wrong.sum())} values are NaN on one side only"
    error = np.abs(ours - wanted)[~undefined].max(initial=0.0)
    largest = np.abs(wanted[~undefined]).max(initial=0.0)
    if exact:
        allowed, kind = 0.0, "exact"
    elif not isinstance(tolerance, dict):
        allowed, kind = tolerance, "absolute"
    elif largest < noise:
        error, allowed, kind = np.abs(ours[~undefined]).max(initial=0.0), noise, "absolute"
    else:
        error, allowed, kind = error / largest, tolerance["relative"], "relative"
    return None if error <= allowed else f"{kind} error {error:.3g}, tolerance {allowed:.3g}"


def compare_map(ours: np.ndarray, wanted: np.ndarray, tolerance: float, noise: float) -> str | None:
    """What is wrong with a network's map, of which only every n-th channel, row or column may be recorded.

    The strides are those, of the ones with which the sizes agree, that fit best.

    Args:
        tolerance: largest difference over the standard deviation of what was recorded. noise: see `compare`.
    """
    error = np.inf
    if ours.ndim == wanted.ndim:
        steps = [
            [step for step in range(1, have + 1) if -(-have // step) == want][:8]
            for have, want in zip(ours.shape, wanted.shape, strict=True)
        ]
        for chosen in itertools.product(*steps):
            part = ours[tuple(slice(None, None, step) for step in chosen)].astype(np.float64)
            error = min(error, np.abs(part - wanted).max(initial=0.0))
    largest, spread = np.abs(wanted).max(initial=0.0), wanted.std()
    if largest < noise:
        return None if error <= noise else f"error {error:.3g} of what was recorded as zero"
    error /= spread if wanted.size > 1 and spread > 0 else largest
    return None if error <= tolerance else f"error {error:.3g} of the standard deviation, tolerance {tolerance:.0e}"
