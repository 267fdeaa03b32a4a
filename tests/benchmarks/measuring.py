"""What the benchmarks share: time and memory of this process, measurements in a process of their own, random labels."""

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IGNORED = 255
MIB = 2**20


def clocks() -> np.ndarray:
    """Seconds by the clock and of this process's processor time, when all that was asked of the device is done."""
    torch.cuda.synchronize() if torch.cuda.is_available() else None
    return np.array([time.perf_counter(), time.process_time()])


def seconds(step: Callable[[], object]) -> np.ndarray:
    """What a step takes, by the clock and of this process's processor time."""
    begin = clocks()
    step()
    return clocks() - begin


def resident(field: str) -> float:
    """MiB of this process: VmRSS, what it holds now, or VmHWM, the most it has held."""
    # not getrusage's, which begins at that of the parent
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak(step: Callable[[], object]) -> float:
    """MiB that a step needs over what is there before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier steps left unused would hide part of this one's need
    Path("/proc/self/clear_refs").write_text("5")  # the most it has held, from now on
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def in_child(*arguments: str) -> object:
    """What the running script prints last, as JSON, with these arguments, in a process that runs nothing else."""
    done = subprocess.run([sys.executable, sys.argv[0], *arguments], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def random_labels(batch: int, size: tuple[int, int], num_classes: int, side: int) -> Tensor:
    """(B, H, W) labels: squares of `side` pixels, a tenth of them ignored."""
    squares = torch.randint(num_classes, (batch, -(-size[0] // side), -(-size[1] // side)))
    squares[torch.rand(squares.shape) < 0.1] = IGNORED
    return squares.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, : size[0], : size[1]].contiguous()
