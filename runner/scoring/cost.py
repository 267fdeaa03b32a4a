"""What a network costs: floating point operations and time of one forward pass."""

import statistics
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segkd.runner.building.frozen import as_it_is, gains_nothing
from segkd.runner.building.shapes import crops
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


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # what is delivered is not compiled
def latency(run: Callable[[Tensor], object], images: Tensor) -> float:
    """Median milliseconds of one forward pass of a network in eval mode, or of a program made from one."""
    return milliseconds(run, images, TIMED)


def milliseconds(run: Callable[[Tensor], object], images: Tensor, count: int) -> float:
    """Median milliseconds of `count` runs, after two that are not counted."""
    times = []
    for _ in range(count + 2):
        wait_for_gpu(images.device)
        since = time.perf_counter()
        run(images)
        wait_for_gpu(images.device)
        times.append(time.perf_counter() - since)
    return 1000 * statistics.median(times[2:])


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
