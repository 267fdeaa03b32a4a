"""Whether two networks, or a network and what it was exported to, give the same scores."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkd.runner.console import percent
from segkd.runner.exporting.quantization import Sensitivity
from segkd.runner.scoring.evaluation import Evaluation

LARGEST = 1e-4  # difference, as a share of the scores' standard deviation
SAME_CLASS = 0.999  # share of pixels: scores that are equal but for rounding swap the first two classes at some

Size = tuple[int, int]  # height, width
Shape = tuple[int, int, int]  # batch, height, width
Scorer = Callable[[Tensor], Tensor]  # (B, 3, H, W) uint8 RGB -> (B, K, H, W) scores


class PlainScores(nn.Module):
    """A network as others run it: plain images in, scores at their size out, nothing to resize or to normalise.

    Shapes:
        images: (B, 3, H, W) uint8 RGB. returns: (B, K, H, W) float32 logits, resized as the network's family does it.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).resized((images.shape[-2], images.shape[-1]))


@dataclass(frozen=True)
class Agreement:
    """Worst cases of one comparison: `difference` in standard deviations of the scores, `same` a share of pixels."""

    difference: float
    same: float
    shapes: list[Shape]

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return (
            f"scores differ from torch's by at most {self.difference:.1e} of their spread, "
            f"{100 * self.same:.2f} % of the pixels get the same class (batch x height x width: {shapes})"
        )


@dataclass(frozen=True)
class Loss:
    """What an INT8 file scores beside the float file it is made of, and what it keeps in float.

    Attributes:
        kept, computing: nodes that stay in float, and how many there are. float32_scorer: what computes with the float
            file, to be timed beside this one. float32_bytes: its size.
    """

    float32: Evaluation
    int8: Evaluation
    kept: list[Sensitivity]
    computing: int
    float32_scorer: Scorer
    float32_bytes: int

    @property
    def points(self) -> float:
        """Points of mIoU that are lost."""
        return 100 * (self.float32.values["miou"] - self.int8.values["miou"])

    def __str__(self) -> str:
        mious = [percent(one.values["miou"]) for one in (self.int8, self.float32)]
        lines = [
            f"{mious[0]} % mIoU on {len(self.int8.names)} images, in float {mious[1]} %; {len(self.kept)} of "
            f"{self.computing} nodes stay in float, besides normalisation and the last resize"
        ]
        return "\n".join([*lines, *(f"  {one}" for one in self.kept)])


@dataclass(frozen=True)
class Export:
    """A finished export: `engine` computes with it by `scorer`, all but torch on the CPU; `remark`: how it is used.
    `is_fixed`: whether it takes images of one size alone.

    An INT8 file has a `loss`, and the agreement of the float file that it is made of.
    """

    scorer: Scorer
    agreement: Agreement
    remark: str
    engine: str = "torch"
    loss: Loss | None = None
    is_fixed: bool = False


@torch.no_grad()
def compare(ours: Scorer, theirs: Scorer, shapes: list[Shape]) -> Agreement:
    """Computes both for the same noise of each shape.

    Raises:
        ValueError: they differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    largest, least = 0.0, 1.0
    for batch, height, width in shapes:
        images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
        expected, found = ours(images), theirs(images)
        if found.shape != expected.shape:
            raise ValueError(f"its scores are {tuple(found.shape)}, torch's {tuple(expected.shape)}")
        spread = expected.std().clamp(min=torch.finfo(expected.dtype).tiny)
        difference = ((found - expected).abs().max() / spread).item()
        same = (found.argmax(1) == expected.argmax(1)).float().mean().item()
        if not difference <= LARGEST or same < SAME_CLASS:  # not <=: a NaN anywhere makes the maximum NaN
            raise ValueError(
                f"at {batch}x{height}x{width} its scores differ from torch's by {difference:.1e} of their spread "
                f"({LARGEST:.0e} is allowed) and {100 * same:.2f} % of the pixels get the same class"
            )
        largest, least = max(largest, difference), min(least, same)
    return Agreement(largest, least, shapes)


def shapes_for(network: nn.Module, size: Size) -> list[Shape]:
    """The size and, where the network takes one, another."""
    others = (other for pair in _pairs(size) for other in pair if not refusal(network, size, other))
    return [(1, *size), *((2, *other) for other in itertools.islice(others, 1))]


def other_sizes(network: nn.Module, size: Size) -> list[Size]:
    """Two further sizes of other shapes, not divisible by anything: what is only right at one size shows.

    A smaller and a larger one, or two larger ones of a network that takes no smaller one as it takes this.

    Raises:
        ValueError: it does not take such sizes.
    """
    for pair in _pairs(size):
        reasons = list(filter(None, (refusal(network, size, other) for other in pair)))
        if not reasons:
            return pair
    raise ValueError(f"the network does not take {reasons[0]}")


def _pairs(size: Size) -> list[list[Size]]:
    height, width = size
    smaller = height - height // 4 + 1, width + width // 8 + 1
    larger = height + height // 3 + 1, width - width // 8 + 1
    return [
        [smaller, larger],
        [(height + height // 3 + 1, width + width // 8 + 1), (height + height // 8 + 1, width + width // 3 + 1)],
    ]


def refusal(network: nn.Module, size: Size, other: Size) -> str:
    """The other size and why the network does not take it as it takes `size`; empty where it does."""
    words = f"{other[0]}x{other[1]}"
    read_size = getattr(network, "read_size", lambda _: None)
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, *other, dtype=torch.uint8))
        if (read_size(size) is None) != (read_size(other) is None):
            return f"{words} without padding"
    except Exception as error:  # networks of others refuse a size in any way: RuntimeError, AssertionError, ...
        return f"{words}: {reason_of(error)}"
    return ""


def reason_of(error: Exception) -> str:
    """The first line of an error that says something: those of the tracer go on for pages."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    return next((line for line in lines if not line.endswith(":")), type(error).__name__)[:200]
