"""SegNeXt: an encoder of convolved attention, and a head that keeps what a few factors can say of the whole map."""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Interval, MultipleOf
from torch import Tensor, nn

from ._heads import add_classifiers, classify
from ._mscan import MSCAN, MSCANName
from ._network import Network, Share
from ._prediction import at_least_float32, resize

GROUPS = 32  # of the head's group norms
RANK, STEPS, TRAINING_STEPS, EPS = 16, 7, 6, 1e-6
WIDTHS = {"mscan_t": 256, "mscan_s": 256, "mscan_b": 512, "mscan_l": 1024}


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
    bases = F.normalize(bases, dim=1).expand(len(x), -1, -1)
    codes = (x.mT @ bases).softmax(-1)  # (B, N, R)
    for _ in range(steps):
        codes = codes * (x.mT @ bases) / (codes @ (bases.mT @ bases) + EPS)
        bases = bases * (x @ codes) / (bases @ (codes.mT @ codes) + EPS)
    codes = codes * (x.mT @ bases) / (codes @ (bases.mT @ bases) + EPS)
    return bases @ codes.mT  # (B, C, N)


class SegNeXt(Network):
    """logits = classifier(dropout(align(hamburger(squeeze([stage2, up(stage3), up(stage4)]))))) at stride 8.

    Guo et al., SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, NeurIPS 2022,
    arXiv 2209.08575; hamburger(x) = ReLU(x + GN(1x1(factors(ReLU(1x1(x)))))), see Factorisation.

    Args:
        backbone: the size of the encoder.
        width: channels of the head, in groups of 32; None: 256 on mscan_t and mscan_s, 512 on mscan_b, else 1024.
        backbone_weights: start the encoder from this local ImageNet file, the authors' or mmsegmentation's.
        num_classes, dropout (of whole channels), drop_path, align_corners: see models/_network.py.

    Features:
        `stage1`..`stage4` at strides 4, 8, 16, 32, after the stage's layer norm; at stride 8 `squeeze`, `nmf` (the map
        of the factors), `hamburger`, `align`, and `head`: what the classifier reads, `align` after dropout.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: MSCANName = "mscan_t",
        width: Annotated[int, Interval(ge=GROUPS, le=8192), MultipleOf(GROUPS)] | None = None,
        dropout: Share = 0.1,
        drop_path: Share = 0.1,
        align_corners: bool = False,
        backbone_weights: str | None = None,
    ):
        encoder = MSCAN(backbone, drop_path)
        super().__init__(num_classes, encoder, False, backbone_weights, align_corners=align_corners)
        width = width or WIDTHS[backbone]
        self.squeeze = ConvGNReLU(sum(self.channels[f"stage{i}"] for i in (2, 3, 4)), width)
        self.ham_in = nn.Conv2d(width, width, 1)
        self.nmf = Factorisation(width)
        self.ham_out = ConvGNReLU(width, width)
        self.align = ConvGNReLU(width, width)
        add_classifiers(self, width, None, dropout, "channels", "kaiming")
        nn.init.kaiming_normal_(
            self.ham_in.weight, mode="fan_out", nonlinearity="relu"
        )  # no classifier, for all its bias
        self.add_features(("squeeze", "nmf", "hamburger", "align", "head"), width, 8)

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        size = found["stage2"].shape[-2:]
        maps = [found["stage2"]] + [resize(found[name], size, self.align_corners) for name in ("stage3", "stage4")]
        found["squeeze"] = self.squeeze(torch.cat(maps, dim=1))
        found["nmf"] = self.nmf(F.relu(self.ham_in(found["squeeze"])))
        found["hamburger"] = F.relu(found["squeeze"] + self.ham_out.before_relu(found["nmf"]))
        found["align"] = self.align(found["hamburger"])
        return classify(self, found["align"], found, wanted)
