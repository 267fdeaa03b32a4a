"""Where a run computes: Accelerate with the recipe's settings, networks in their memory format, statistics shared."""

import os
from datetime import timedelta

import timm
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from segkd.runner.graph import Graph
from segkd.runner.recipe import Ramp, Recipe
from segkd.runner.sampler import images_per_part


def start_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate with the recipe's precision. Terms that come and go make DDP look for unused parameters; else it need not.

    Raises:
        ValueError: the launcher asks for another precision or accumulation than the recipe, which would win or lose silently.
    """
    precision = {"fp32": "no"}.get(recipe.loop.precision, recipe.loop.precision)
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", precision):
        raise ValueError(f"accelerate launch asks for {launched} and the recipe for {recipe.loop.precision}; the recipe decides: "
                         f"set loop.precision={launched}, or leave --mixed_precision out (accelerate config may set it)")
    if int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")) not in (1, recipe.loop.accumulate):
        raise ValueError("accelerate launch sets gradient accumulation; the recipe decides: set loop.accumulate instead")
    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)  # the loop accumulates itself
    comes_and_goes = any(term.after is not None or term.until is not None or isinstance(term.weight, Ramp) for term in recipe.losses)
    # without a GPU, Accelerate joins several processes only when told that they are to use the CPU; else each trains alone
    on_cpus = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()
    return Accelerator(mixed_precision=precision, cpu=on_cpus, kwargs_handlers=[
        DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=comes_and_goes),
        InitProcessGroupKwargs(timeout=timedelta(seconds=recipe.loop.timeout))])


def prepare_for_device(graph: Graph, recipe: Recipe, accelerator: Accelerator) -> None:
    """Moves the networks to the device in the recipe's memory format; synchronises batch norms and compiles as it says."""
    loop, on_gpu = recipe.loop, accelerator.device.type == "cuda"
    share = images_per_part(recipe.data.batch_size, loop.accumulate, accelerator.num_processes)
    synchronise = loop.sync_batchnorm
    if synchronise == "auto":
        synchronise = on_gpu and share <= 8
    memory_format = torch.channels_last if loop.channels_last else torch.contiguous_format
    for name in recipe.networks:
        network = graph.network(name)
        if name in graph.networks:
            if synchronise and accelerator.num_processes > 1:  # timm's form also keeps the activations of its fused layers
                network = graph.networks[name] = timm.layers.convert_sync_batchnorm(network)
            if loop.compile:
                network.compile(dynamic=False)
        network.to(device=accelerator.device, memory_format=memory_format)


def share_running_statistics(graph: Graph, accelerator: Accelerator) -> None:
    """Averages the running statistics of the networks over the processes, which follow their own images between two scorings."""
    if accelerator.num_processes == 1:
        return
    for buffer in graph.networks.buffers():
        if buffer.is_floating_point():
            buffer.copy_(accelerator.reduce(buffer.clone(), reduction="mean"))


def average_gradients(module: torch.nn.Module, accelerator: Accelerator) -> None:
    """Averages the gradients of a module outside DDP over the processes."""
    if accelerator.num_processes == 1:
        return
    for parameter in module.parameters():
        parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")
