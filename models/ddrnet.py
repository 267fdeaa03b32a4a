"""DDRNet: a branch of details and one of context that exchange their maps twice."""

import torch.nn.functional as F
from torch import Tensor, nn

from ._dual_resolution import (
    ConvBN,
    DualResolutionEncoder,
    NormFirstHead,
    context_stages,
    detail_stages,
    enlarge,
    init_convolutions,
)
from ._network import Count, Network
from ._pyramid_pooling import PyramidPooling

BLOCKS = 2  # of the stem and of each branch


class _DDRNetEncoder(DualResolutionEncoder):
    """Both branches up to their sum; see DDRNet for the features."""

    needed = (*DualResolutionEncoder.needed, "context.0.", "context.1.", "spatial.0.", "spatial.1.")

    def __init__(self, width: int, pyramid_width: int, stem_bias: bool):
        super().__init__(width, BLOCKS, stem_bias)
        c = width
        self.context = context_stages(c, BLOCKS, last=1)
        self.spatial = detail_stages(c, BLOCKS)
        self.compressions = nn.ModuleList([ConvBN(4 * c, 2 * c, 1), ConvBN(8 * c, 2 * c, 1)])
        self.downs = nn.ModuleList([
            nn.ModuleList([ConvBN(2 * c, 4 * c, 3, stride=2)]),
            nn.ModuleList([ConvBN(2 * c, 4 * c, 3, stride=2), ConvBN(4 * c, 8 * c, 3, stride=2)]),
        ])  # fmt: skip
        self.pyramid = PyramidPooling(16 * c, pyramid_width, 4 * c, parallel=False)
        init_convolutions(self)

        for number, channels, stride in ((3, 4 * c, 16), (4, 8 * c, 32)):
            for name in (f"context{number}", f"stage{number}"):
                self.channels[name], self.strides[name] = channels, stride
            for name in (f"spatial{number}", f"detail{number}_pre", f"detail{number}"):
                self.channels[name], self.strides[name] = 2 * c, 8
        self.channels |= {"context5": 16 * c, "spatial5": 4 * c, "pyramid": 4 * c, "fused": 4 * c}
        self.strides |= {"context5": 64, "spatial5": 8, "pyramid": 64, "fused": 8}

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = self.first_stages(x)
        context = spatial = found["stage2"]
        for i in range(2):
            context = found[f"context{i + 3}"] = self.context[i](context)
            spatial = found[f"spatial{i + 3}"] = self.spatial[i](spatial)
            # both take up what the other was before
            taken_up = enlarge(self.compressions[i](F.relu(context)), spatial)
            context = context + self.reduced(i, F.relu(spatial))
            spatial = spatial + taken_up
            found[f"detail{i + 3}_pre"] = spatial
            context, spatial = F.relu(context), F.relu(spatial)
            found[f"stage{i + 3}"], found[f"detail{i + 3}"] = context, spatial
        found["context5"], found["spatial5"] = self.context[2](context), self.spatial[2](spatial)
        found["pyramid"] = self.pyramid(found["context5"])
        found["fused"] = found["spatial5"] + enlarge(found["pyramid"], found["spatial5"])
        return found

    def reduced(self, i: int, spatial: Tensor) -> Tensor:
        """The details at the size and channels of the context, (B, 4c, h / 2, w / 2) or (B, 8c, h / 4, w / 4)."""
        for number, conv in enumerate(self.downs[i]):
            spatial = conv(F.relu(spatial) if number else spatial)
        return spatial


class DDRNet(Network):
    """logits = head(spatial5 + pyramid) at stride 8, in training also a head on the details after the first exchange.

    Hong et al., Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes, 2021,
    arXiv 2101.06085. The defaults are those of DDRNet-23-slim.

    Args:
        width: channels at stride 4.
        pyramid_width: channels of a level of the pyramid.
        head_width: channels of both heads.
        stem_bias: a bias on the first two convolutions, which mmsegmentation has not.
        num_classes, aux (on detail3_pre), align_corners (of the scores; inside, maps are resized without it),
        backbone_weights: see models/_network.py; the authors' ImageNet file fits.

    Features:
        `stage1`..`stage4` at strides 4, 8, 16, 32: the stem and the branch of context, the last two after the exchange;
        `detail3`, `detail4` at stride 8: that of details after the exchange, and before their ReLU `detail3_pre`,
        `detail4_pre`; `context3`, `context4`, `spatial3`, `spatial4`: both before the exchange, and behind them, at 64
        and 8, `context5` and `spatial5`, none with a ReLU; `pyramid`: of context5's averages; `fused`: it and spatial5;
        `head`: what the classifier reads.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: Count = 32,
        pyramid_width: Count = 128,
        head_width: Count = 64,
        stem_bias: bool = True,
        aux: bool = True,
        align_corners: bool = False,
        backbone_weights: str | None = None,
    ):
        encoder = _DDRNetEncoder(width, pyramid_width, stem_bias)
        super().__init__(num_classes, encoder, False, backbone_weights, align_corners=align_corners)
        self.head = NormFirstHead(4 * width, head_width, num_classes)
        self.add_features(("head",), head_width, 8)
        init_convolutions(self.head)
        self.has_aux = aux
        if aux:
            self.own_heads = {"aux": "aux_head"}
            self.aux_head = NormFirstHead(2 * width, head_width, num_classes)
            init_convolutions(self.aux_head)

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["head"] = self.head.before_classifier(found["fused"])
        found["logits"] = self.head.classifier(found["head"])  # (B, K, h, w)
        if "aux" in wanted:
            found["aux"] = self.aux_head(found["detail3_pre"])
        return found
