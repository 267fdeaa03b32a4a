"""SegNeXt: an encoder of convolved attention, and a head that keeps what a few factors can say of the whole map."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval, MultipleOf
from torch import Tensor, nn

from ._hamburger import GROUPS, ConvGNReLU, Factorisation
from ._heads import add_classifiers, classify
from ._mscan import MSCAN, MSCANName
from ._network import Network, Share
from ._prediction import resize

WIDTHS = {"mscan_t": 256, "mscan_s": 256, "mscan_b": 512, "mscan_l": 1024}


class SegNeXt(Network):
    """logits = classifier(dropout(align(hamburger(squeeze([stage2, up(stage3), up(stage4)]))))) at stride 8.

    Guo et al., SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, NeurIPS 2022,
    arXiv 2209.08575; hamburger(x) = ReLU(x + GN(1x1(factors(ReLU(1x1(x)))))), see models/_hamburger.py.

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
