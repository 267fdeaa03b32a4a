"""What a network costs: floating point operations and time of one forward pass."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

TIMED = 10  # forward passes behind a latency


@torch.no_grad()
def flops(network: nn.Module, images: Tensor) -> int:
    """Floating point operations of one forward pass in eval mode; a multiply-add counts as two."""
    counter = FlopCounterMode(display=False)
    with counter:
        network(images)
    return counter.get_total_flops()


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # what is delivered is not compiled
def latency(run: Callable[[Tensor], object], images: Tensor) -> float:
    """Median milliseconds of one forward pass of a network in eval mode, or of a program made from one."""
    times = []
    for _ in range(TIMED + 2):
        wait_for_gpu(images.device)
        since = time.perf_counter()
        run(images)
        wait_for_gpu(images.device)
        times.append(time.perf_counter() - since)
    return 1000 * statistics.median(times[2:])


def wait_for_gpu(device: torch.device) -> None:
    """Waits until a GPU has done what it was asked for; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
