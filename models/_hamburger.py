"""The parts of SegNeXt's head: group norms, and a map rebuilt of a few factors."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._prediction import at_least_float32

GROUPS = 32  # of the head's group norms
RANK, STEPS, TRAINING_STEPS, EPS = 16, 7, 6, 1e-6


class ConvGNReLU(nn.Module):
    """1x1 convolution without bias, group norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, out_channels)

    def before_relu(self, x: Tensor) -> Tensor:
        """What the ReLU at the end reads."""
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x), inplace=True)


class Factorisation(nn.Module):
    """A map, rebuilt of RANK factors: x ~ bases @ codes^T with none of them negative (NMF).

        codes = softmax(x^T bases);  then, in turn and STEPS times (TRAINING_STEPS in training)
        codes *= x^T bases / (codes bases^T bases + eps),  bases *= x codes / (bases codes^T codes + eps)
        and codes once more; gradients run through all of it

    Geng et al., Is Attention Better Than Matrix Decomposition?, ICLR 2021, arXiv 2109.04553, as SegNeXt and
    mmsegmentation run it: those draw the first bases anew at every forward, in evaluation too, where two draws differ
    in the classes of a quarter of the pixels (random weights). Here they are drawn so in training alone, for each
    image, from the generator dropout draws from; otherwise they are one draw that the seed of this file fixes, so that
    an exported network has them too.

    Shapes:
        x: (B, C, h, w), not negative -> the same. bases: (1 or B, C, RANK), uniform in 0..1; what runs has columns of
        length 1.
    """

    def __init__(self, channels: int):
        super().__init__()
        # not torch's generator: building a network must not depend on what was drawn before. Not in the state dict:
        # published checkpoints know no such entry
        first = np.random.default_rng(0).random((1, channels, RANK), dtype=np.float32)
        self.register_buffer("bases", torch.tensor(first), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        values = at_least_float32(x).flatten(2)  # (B, C, N)
        drawn = values.new_empty(len(x), *self.bases.shape[1:]).uniform_() if self.training else self.bases.to(values)
        with torch.autocast(x.device.type, enabled=False):  # products of hundreds of terms, divided by their like
            rebuilt = factorised(values, drawn, TRAINING_STEPS if self.training else STEPS)
        return rebuilt.unflatten(2, x.shape[-2:]).to(x.dtype)


def factorised(x: Tensor, bases: Tensor, steps: int) -> Tensor:
    """bases @ codes^T after some steps; see Factorisation. x: (B, C, N). bases: (1 or B, C, R)."""
    bases = F.normalize(bases, dim=1)
    codes = (x.mT @ bases).softmax(-1)  # (B, N, R)
    for _ in range(steps):
        codes = codes * (x.mT @ bases) / (codes @ (bases.mT @ bases) + EPS)
        bases = bases * (x @ codes) / (bases @ (codes.mT @ codes) + EPS)
    codes = codes * (x.mT @ bases) / (codes @ (bases.mT @ bases) + EPS)
    return bases @ codes.mT  # (B, C, N)
