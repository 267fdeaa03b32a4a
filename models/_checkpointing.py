"""Activation checkpointing: a network keeps the inputs of its blocks alone, and computes the blocks again in backward.

Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174. Gradients, batch norm statistics and the
ranges of INT8 stay as they are without it, dropout draws the same numbers both times; a step takes about a third longer.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ._int8 import Rounded


def checkpoint_blocks(network: nn.Module) -> None:
    """Makes a network's blocks recompute, in place. State dict and results stay as they are.

    Raises:
        ValueError: it has no blocks.
    """
    blocks = list(blocks_of(network))
    if not blocks:
        raise ValueError("checkpointing: this network has no blocks in a row; leave it out")
    for block in blocks:
        block.forward = functools.partial(_recomputed, block)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of a module's rows (Sequential, ModuleList) with several layers in them, the innermost such ones."""
    for child in module.children():
        inner = list(blocks_of(child))
        if inner:
            yield from inner
        elif isinstance(module, (nn.Sequential, nn.ModuleList)) and _layers(child) > 1:
            yield child


def _layers(module: nn.Module) -> int:
    return sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())


def _recomputed(block: nn.Module, *inputs: object, **named: object) -> object:
    """What the block's own forward gives; while gradients are wanted, of its inner maps none is kept."""
    forward = functools.partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **named)
    ranges: dict[Rounded, Tensor] = {}
    contexts = _ranges_noted(block, ranges), _Again(lambda: _statistics_kept(block, ranges))
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=lambda: contexts, **named)


class _Again(AbstractContextManager):
    """A context for each time it is entered: gradients may be computed several times of one forward."""

    def __init__(self, new: Callable[[], AbstractContextManager[None]]):
        self.new, self.entered = new, []

    def __enter__(self) -> None:
        context = self.new()
        context.__enter__()
        self.entered.append(context)

    def __exit__(self, *error: object) -> bool | None:
        return self.entered.pop().__exit__(*error)


@contextmanager
def _ranges_noted(block: nn.Module, ranges: dict[Rounded, Tensor]) -> Iterator[None]:
    """Notes by which ranges layers in INT8 have rounded: another forward may move them before the second run."""
    yield
    ranges |= {layer: layer.input_range.clone() for layer in block.modules() if isinstance(layer, Rounded)}


@contextmanager
def _statistics_kept(block: nn.Module, ranges: dict[Rounded, Tensor]) -> Iterator[None]:
    """Nothing is counted a second time: batch norms normalise by the batch, and layers round, as in the first run."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    for layer, seen in ranges.items():
        layer.replayed = seen
    try:
        yield
    finally:
        for layer in ranges:
            layer.replayed = None
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
