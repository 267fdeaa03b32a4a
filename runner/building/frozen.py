"""Frozen networks whose forward is made cheaper: in a precision of their own, or on smaller images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models._network import Network as Computed
from segkd.models._prediction import at_least_float32
from segkd.runner.recipe.network import Network

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Cheaper(Computed):
    """A network that is computed in another precision or on images of another size; its maps are float32.

    The normalised images are resized bilinearly, with antialiasing, to round(scale * side) pixels. Scores and features
    come out as the network makes them at that size, so a stride is 1 / scale times the network's own: a stride of 8
    becomes 16 at a scale of 0.5, and 10.67 at 0.75. Half precision is autocast's: the weights stay in float32, so that
    the network can be scored and timed as it is, too. Keeping the weights of convolutions in bfloat16 would save another
    tenth of a forward of one image on a CPU, less of a larger batch.

    What the network inside reads of `features_wanted`, `aux_wanted` and `normalize` is this one's.

    Args:
        network: a network of models/. precision: None leaves what it runs under as it is. scale: of its images' sides.

    Shapes:
        as the network's for images of the smaller size.
    """

    def __init__(self, network: Computed, precision: str | None = None, scale: float = 1.0):
        super().__init__(network.num_classes, align_corners=network.align_corners)
        self.network, self.precision, self.scale = network, precision, scale
        self.class_names, self.gives_logits = network.class_names, network.gives_logits
        self.channels, self.norms = network.channels, network.norms
        self.strides = self._strides()
        self.normalize, self.has_aux, self.takes_prompt = network.normalize, network.has_aux, network.takes_prompt
        self.own_heads = {feature: f"network.{head}" for feature, head in network.own_heads.items()}

    def _strides(self) -> dict[str, float]:
        return {name: stride / self.scale for name, stride in self.network.strides.items()}

    def measure(self, name: str) -> None:
        """Lists a feature of the network inside."""
        self.network.measure(name)
        self.strides.update(self._strides())

    def compute(self, x: Tensor, wanted: set[str], prompt: Tensor | None) -> dict[str, Tensor | None]:
        if self.scale != 1:
            size = [max(1, round(self.scale * side)) for side in x.shape[-2:]]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        if self.precision is None:
            return self.network.compute_padded(x, wanted, prompt)
        with torch.autocast(x.device.type, HALVES.get(self.precision), enabled=self.precision in HALVES):
            found = self.network.compute_padded(x, wanted, prompt)
        return {name: None if maps is None else at_least_float32(maps) for name, maps in found.items()}


def cheaper(network: nn.Module, entry: Network) -> nn.Module:
    """The network computed as its section of the recipe asks, itself where that asks for nothing."""
    if entry.precision is None and entry.input_scale == 1:
        return network
    return Cheaper(network, entry.precision, entry.input_scale)


def as_it_is(network: nn.Module) -> nn.Module:
    """The network without what makes it cheaper, giving the maps that are wanted of it."""
    if not isinstance(network, Cheaper):
        return network
    inside = network.network
    inside.features_wanted, inside.aux_wanted = network.features_wanted, network.aux_wanted
    return inside


def gains_nothing(precision: str | None, device: torch.device) -> bool:
    """Whether this is a CPU that has no instructions for that half precision, as far as torch can tell."""
    if precision not in HALVES or device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    return not any(precision in name for name, there in torch.cpu.get_capabilities().items() if there is True)


def takes_longer(precision: str | None, device: torch.device) -> bool:
    """Whether this is a CPU on which torch computes that half precision without oneDNN, many times slower than float32.

    oneDNN asks for AVX-512 on x86; with it, but without instructions of its own, bfloat16 costs what float32 does.
    """
    if precision not in HALVES or device.type != "cpu":
        return False
    onednn = torch.ops.mkldnn
    return not (torch.backends.mkldnn.is_available() and getattr(onednn, f"_is_mkldnn_{precision}_supported")())
