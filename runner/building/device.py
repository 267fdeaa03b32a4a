"""Where a run computes: Accelerate with the recipe's settings, networks in their memory format, statistics shared."""

import os
import resource
import warnings
from datetime import timedelta
from pathlib import Path

import timm
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import parse_flag_from_env
from torch import nn

from segkd.runner.building.frozen import takes_longer
from segkd.runner.building.graph import Graph
from segkd.runner.console import counted
from segkd.runner.loading.sampler import images_per_part
from segkd.runner.process import process_count
from segkd.runner.recipe.schema import Recipe


def find_device() -> torch.device:
    """Where a command without a recipe computes: the accelerator of this machine if it has one, else its CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def start_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate with the recipe's precision.

    Raises:
        ValueError: the launcher asks for another precision or accumulation than the recipe: one would silently win.
    """
    precision = {"fp32": "no"}.get(recipe.loop.precision, recipe.loop.precision)
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", precision):
        raise ValueError(
            f"accelerate launch asks for {launched} and the recipe for {recipe.loop.precision}; the recipe decides: "
            f"set loop.precision={launched}, or leave --mixed_precision out (accelerate config may set it)"
        )
    if int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")) not in (1, recipe.loop.accumulate):
        raise ValueError(
            "accelerate launch sets gradient accumulation; the recipe decides: set loop.accumulate instead"
        )
    here, uses_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), not parse_flag_from_env("ACCELERATE_USE_CPU")
    if torch.cuda.is_available() and uses_gpus and here > torch.cuda.device_count():
        gpus = counted(torch.cuda.device_count(), "GPU")
        raise ValueError(
            f"{here} processes were started on a machine with {gpus}, and each needs one of its own; start as many as "
            f"there are (accelerate launch --num_processes, torchrun --nproc_per_node)"
        )
    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)  # the loop accumulates itself
    use_all_cores()
    # DDP is told once by Accelerate and once by itself that this option has a new name
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
    # a process may train and score one after another, and Accelerate keeps the precision of the first
    AcceleratorState._reset_state()
    # without a GPU, Accelerate joins several processes only when told that they use the CPU; else each trains alone
    on_cpus = process_count() > 1 and not torch.accelerator.is_available()
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=on_cpus,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timedelta(seconds=recipe.loop.timeout)),
        ],
    )
    if accelerator.is_main_process and takes_longer(precision, accelerator.device):
        slow = f"loop.precision: this processor has no instructions for {precision}; a step may take fifty times"
        warnings.warn(f"{slow} as long as with loop.precision=fp32", stacklevel=2)
    return accelerator


def use_all_cores() -> None:
    """Gives one process on a CPU all its cores, of which `accelerate launch` leaves it a single one."""
    launched = (
        "ACCELERATE_MIXED_PRECISION" in os.environ
    )  # the launcher's; OMP_NUM_THREADS=1 is, too, unless it was said
    alone = process_count() == 1 and not torch.accelerator.is_available()
    if launched and alone and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def prepare_for_device(graph: Graph, recipe: Recipe, accelerator: Accelerator) -> None:
    """Moves networks to the device in the recipe's memory format; synchronises batch norms and compiles as it says.

    What Accelerate wraps next is taken to be this graph: DDP is told whether it leaves some gradients out.
    """
    if accelerator.num_processes > 1:
        accelerator.ddp_handler.find_unused_parameters = graph.leaves_some_out
    loop, on_gpu = recipe.loop, accelerator.device.type == "cuda"
    data, shared = recipe.data, (loop.accumulate, accelerator.num_processes)
    share = images_per_part(data.batch_size, *shared, mixing=None if data.mix is None else "data.mix")
    if data.unlabelled is not None:
        mixing = "data.unlabelled.strong" if (data.unlabelled.strong or {}).get("cutmix") else None
        images_per_part(data.unlabelled.batch_size, *shared, "data.unlabelled.batch_size", mixing)
    synchronise = loop.sync_batchnorm
    if synchronise == "auto":
        synchronise = on_gpu and share <= 8
    memory_format = torch.channels_last if loop.channels_last else torch.contiguous_format
    if synchronise and accelerator.num_processes > 1 and not on_gpu:  # torch's refuses maps on CPUs
        if accelerator.is_main_process:
            text = "loop.sync_batchnorm is for GPUs; on CPUs the batch norms of each process see its own images alone"
            warnings.warn(text, stacklevel=2)
    elif synchronise and accelerator.num_processes > 1:
        for owner in (graph.networks, *graph.losses.values()):
            for name, part in list(owner.named_children()):
                if name != "adversary":  # a discriminator's scores of one process's images need no others
                    # timm's: torch's drops fused activations
                    setattr(owner, name, timm.layers.convert_sync_batchnorm(part))
    for name in recipe.networks:
        network = graph.network(name)
        if loop.compile and name in graph.networks:
            network.compile(dynamic=False)
        if recipe.networks[name].compile:
            network.compile(dynamic=False, fullgraph=True)  # all of it, or an error
        network.to(device=accelerator.device, memory_format=memory_format)
        network.normalize.makes_contiguous = not loop.channels_last  # a convolution keeps the format of its input


def share_running_statistics(modules: list[nn.Module], accelerator: Accelerator) -> None:
    """Averages running statistics over the processes, each of which follows its own images between two scorings."""
    if accelerator.num_processes == 1:
        return
    for module in modules:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(accelerator.reduce(buffer.clone(), reduction="mean"))


def loss_scale(accelerator: Accelerator) -> float:
    """What losses are multiplied by before they go back: above 1 in fp16, whose small gradients would be 0."""
    return accelerator.scaler.get_scale() if accelerator.scaler is not None else 1.0


def average_gradients(module: nn.Module, accelerator: Accelerator) -> None:
    """Averages the gradients of a module outside DDP over the processes."""
    if accelerator.num_processes == 1:
        return
    for parameter in module.parameters():
        parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: the GPU's allocations, or this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage starts at the peak of whoever started this process
        kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    else:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * int(kilobytes)
