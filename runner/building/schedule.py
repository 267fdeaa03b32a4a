"""The learning rate as a pure function of the iteration: a resume needs no scheduler state."""

import math
from typing import Literal


def learning_rate(
    iteration: int,
    *,
    lr: float,
    iterations: int,
    name: Literal["poly", "cosine", "constant", "step"] = "poly",
    power: float = 0.9,
    min_lr: float = 0.0,
    warmup: int = 0,
    drop_every: int | None = None,
    drop_factor: float = 0.1,
    lag: int = 0,
) -> float:
    """The rate the optimizer uses in one iteration, before any per-group factor.

        poly      min_lr + (lr - min_lr) * (1 - i / iterations)^power
        cosine    min_lr + (lr - min_lr) * (1 + cos(pi i / iterations)) / 2
        constant  lr
        step      lr * drop_factor^floor(i / drop_every)

    Args:
        iteration: i, from 0. Codes that count from 1 (CIRKD, DIST) use iteration + 1 for the same rate.
        lr: rate at iteration 0 (after warm-up). iterations: where the curve ends; it stays at its last value.
        power, min_lr: of the curves above.
        warmup: over this many iterations the curve is multiplied by i / warmup, so iteration 0 has rate 0 (AICSD).
        drop_every: iterations between two drops; `step` needs it, the others do not read it.
        lag: the rate is that of `lag` iterations earlier, never before 0 (TriKD sets it after each step: 1).
    """
    i = max(0, iteration - lag)
    progress = min(i / iterations, 1.0)
    if name == "poly":
        rate = min_lr + (lr - min_lr) * (1 - progress) ** power
    elif name == "cosine":
        rate = min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    elif name == "step":
        rate = lr * drop_factor ** (i // drop_every)
    else:
        rate = lr
    return rate * i / warmup if i < warmup else rate
