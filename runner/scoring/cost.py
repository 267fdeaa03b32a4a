"""What a network costs: floating point operations, memory and time of one forward pass."""

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segkd.runner.building.frozen import as_it_is, gains_nothing
from segkd.runner.loading.batch import crops
from segkd.runner.loading.sampler import images_per_part
from segkd.runner.recipe.schema import Recipe

TIMED = 10  # forward passes behind a latency
TIMED_ON_BATCH = 3  # on a whole batch, which takes a large teacher seconds on a CPU


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # else operations inside compiled code are not seen
def flops(network: nn.Module, images: Tensor) -> int:
    """Floating point operations of one forward pass in eval mode; a multiply-add counts as two."""
    counter = FlopCounterMode(display=False)
    with counter:
        network(images)
    return counter.get_total_flops()


def parameters(network: nn.Module) -> int:
    """How many numbers of a network are read to predict: the heads that only losses read are left out."""
    heads = tuple(f"{head}." for head in getattr(network, "own_heads", {}).values())
    return sum(one.numel() for name, one in network.named_parameters() if not name.startswith(heads))


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one forward pass: the median, and what 95 of 100 did not exceed."""

    median: float
    p95: float

    @classmethod
    def of(cls, times: Sequence[float]) -> "Timing":
        """From those of several."""
        return cls(statistics.median(times), sorted(times)[min(len(times) - 1, int(0.95 * len(times)))])


def latency(run: Callable[[Tensor], object], images: Tensor) -> float:
    """Median milliseconds of one forward pass of a network in eval mode."""
    return Timing.of(in_turn([run], images, TIMED)[0]).median


def milliseconds(run: Callable[[Tensor], object], images: Tensor, count: int) -> float:
    """Median milliseconds of `count` runs, after two that are not counted."""
    return statistics.median(_in_turn([run], images, count)[0])


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # what is delivered is not compiled
def in_turn(runs: Sequence[Callable[[Tensor], object]], images: Tensor, count: int) -> list[list[float]]:
    """Milliseconds of `count` runs of each, after two that are not counted.

    They take turns (A B A B): what else this machine does meanwhile, and how warm it is, meets all of them alike.
    """
    return _in_turn(runs, images, count)


def _in_turn(runs: Sequence[Callable[[Tensor], object]], images: Tensor, count: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(count + 2):
        for run, taken in zip(runs, times):
            wait_for_gpu(images.device)
            since = time.perf_counter()
            run(images)
            wait_for_gpu(images.device)
            taken.append(1000 * (time.perf_counter() - since))
    return [taken[2:] for taken in times]


def resident_memory() -> int | None:
    """Bytes of this process in memory, what nobody uses any more given back first; None where the system tells none.

    The peak that `peak_since` tells begins anew here.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError, StopIteration):  # other systems than Linux, other libraries than glibc
        return None


def peak_since(before: int | None) -> int | None:
    """Most bytes in memory at a time since `resident_memory` has told how many there were."""
    return None if before is None else max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


@torch.no_grad()
def told_gain(name: str, network: nn.Module, recipe: Recipe, accelerator: Accelerator) -> str:
    """What making a frozen network's forward cheaper brings, measured on a batch as large as those of training.

    Raises:
        ValueError: torch.compile cannot take the network as a whole.
    """
    entry, loop = recipe.networks[name], recipe.loop
    count = images_per_part(recipe.data.batch_size, loop.accumulate, accelerator.num_processes)
    images = crops(recipe, count, accelerator.device)
    prompt = () if entry.prompted_by is None else (images[:, :1].float(),)  # a mask of the first class
    with accelerator.autocast():
        with torch.compiler.set_stance("force_eager"):
            before = milliseconds(lambda images: as_it_is(network)(images, *prompt), images, TIMED_ON_BATCH)
        try:
            now = milliseconds(lambda images: network(images, *prompt), images, TIMED_ON_BATCH)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(
                f"networks.{name}.compile: torch.compile cannot take this network as a whole ({reason}); leave it out"
            ) from None
    text = f"{name} ({', '.join(entry.cheaper_by)}): a forward of {count} images takes {now:.1f} ms, {before:.1f} ms"
    if gains_nothing(entry.precision, accelerator.device):
        return f"{text} without; this processor has no instructions for {entry.precision}, which makes nothing faster"
    return f"{text} without"


def wait_for_gpu(device: torch.device) -> None:
    """Waits until a GPU has done what it was asked for; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
