"""A network that follows another one: the moving average of its weights."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """average <- decay * average + (1 - decay) * network at each update, buffers included; a copy at the first one.

    Whole numbers, such as places in a table, are those of the network: there is no average of them. The same numbers
    as torch's AveragedModel with get_ema_multi_avg_fn, whose count of updates a GPU would be waited for.

    Attributes:
        module: the average. n_averaged: how many updates there were, on the CPU.
    """

    def __init__(self, network: nn.Module, decay: float):
        super().__init__()
        self.module, self.decay = copy.deepcopy(network), decay
        self.register_buffer("n_averaged", torch.tensor(0))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Moves the average a step towards the network."""
        numbers: tuple[list[Tensor], list[Tensor]] = [], []
        others: tuple[list[Tensor], list[Tensor]] = [], []
        is_copy = self.n_averaged.item() == 0
        for average, value in zip(_values(self.module), _values(network), strict=True):
            kept = others if is_copy or not average.is_floating_point() else numbers
            kept[0].append(average)
            kept[1].append(value)
        if numbers[0]:
            torch._foreach_lerp_(*numbers, 1 - self.decay)
        if others[0]:
            torch._foreach_copy_(*others)
        self.n_averaged += 1


def _values(network: nn.Module) -> chain[Tensor]:
    return chain(network.parameters(), network.buffers())
