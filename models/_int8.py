"""Layers that compute in training as they will in INT8: weights and inputs rounded, gradients as if they were not.

Simulated quantisation of Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 3, with the straight-through gradients of Bengio et al., arXiv
1308.3432, which are zero where an input lies outside of its range. Weights have one symmetric scale for each output
channel, its largest weight / 127, so that a batch norm may be folded into them afterwards: both grow alike. Inputs have
one range for a map, a moving mean of the smallest and the largest value of each batch, with 0 among its 256 steps.
"""

import functools

import torch
from torch import Tensor, nn

MOMENTUM = 0.01  # of ranges, Jacob et al. have 0.01 to 0.1
LEAST = 1e-8  # of a scale

Range = tuple[float, float]


class Rounded:
    """Beside the class of a layer: its weight is read rounded, and its input is rounded before it is used.

    Attributes:
        replayed: the range to round by while a forward is computed a second time; nothing is observed then.
    """

    replayed: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The layer's parameter in 8 bits; under its name in the state dict the parameter itself stays."""
        weight = self._parameters["weight"].float()
        scale = weight.detach().abs().flatten(1).amax(1).clamp(min=LEAST) / 127  # (C,)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -127, 127)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own forward, of the rounded input."""
        if self.training and self.replayed is None:
            self._observe(x.detach().float())
        elif not self.input_range.any():  # it has seen nothing yet
            return super().forward(x)
        low, high = self.input_range if self.replayed is None else self.replayed
        scale = ((high - low) / 255).clamp(min=LEAST)
        zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
        return super().forward(torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255).to(x.dtype))

    def _observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        found = torch.stack((low.clamp(max=0), high.clamp(min=0)))
        is_first = (self.input_range == 0).all()
        self.input_range.copy_(torch.where(is_first, found, torch.lerp(self.input_range, found, MOMENTUM)))


@functools.cache
def _rounded(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Rounded{kind.__name__}", (Rounded, kind), {})


def simulate_int8(network: nn.Module) -> nn.Module:
    """Makes every convolution and linear layer compute as in INT8, in place; each gets a buffer `input_range`."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not isinstance(module, Rounded):
            module.register_buffer("input_range", torch.zeros(2, device=module.weight.device))
            module.__class__ = _rounded(type(module))
    return network


def in_float(network: nn.Module) -> dict[str, Range]:
    """Makes the layers compute in float again, in place.

    Returns:
        The range of each layer's input, by the layer's name, where it was ever seen; empty for other networks.
    """
    ranges = {}
    for name, module in network.named_modules():
        if isinstance(module, Rounded):
            low, high = module.input_range.tolist()
            if low < high:
                ranges[name] = low, high
            del module.input_range
            module.__class__ = type(module).__bases__[1]
    return ranges
