"""BiSeNetV2: a wide shallow branch for detail and a narrow deep one for meaning, each weighing the other."""

import torch.nn.functional as F
from torch import Tensor, nn

from ._heads import ConvBNReLU, dropout_of, init_heads
from ._network import Count, Network, Share
from ._two_branches import WIDTH, Arrangement, TwoBranches, init_kaiming

# auxiliary scores -> what they are made of
AUX = {"aux2": "stage1", "aux3": "stage2", "aux4": "stage3", "aux5": "stage4"}
AUX_WIDTH = 128


class _AuxHead(nn.Module):
    """Scores of a stage: 3x3 to 128 channels, dropout, twice the size, 3x3, 1x1; with mmsegmentation 3x3, 3x3, 1x1."""

    def __init__(self, in_channels: int, width: int, num_classes: int, dropout: float, arrangement: Arrangement):
        super().__init__()
        self.is_original = arrangement == "original"
        inner = AUX_WIDTH if self.is_original else width
        self.conv = ConvBNReLU(in_channels, inner, 3)
        self.refine = ConvBNReLU(inner, width, 3)
        self.dropout = dropout_of("elements" if self.is_original else "channels", dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.is_original:
            x = F.interpolate(self.dropout(x), scale_factor=2.0, mode="nearest")
            return self.classifier(self.refine(x))
        return self.classifier(self.dropout(self.refine(x)))


class BiSeNetV2(Network):
    """logits = classifier(dropout(refine(aggregation(detail, context(stage4))))) at stride 8.

    Yu et al., BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation, IJCV 2021,
    arXiv 2004.02147, in the arrangements of two codes: CoinCheung's, the one that reaches the published numbers, and
    mmsegmentation's. They differ in the enlarging inside the aggregation, two biases and the auxiliary heads, so that
    the weights of one mean nothing in the other. Images of any size: what is enlarged is cut to the detail's size.

    Args:
        arrangement: whose network. The original is trained on images with the constants `bisenetv2` of
            models/_prediction.py, mmsegmentation's on ImageNet's.
        width: channels of `head`.
        aux: with four auxiliary heads on stage1..stage4. Their scores are features, made only where a loss reads them,
            such as cross_entropy with scores: aux2; those that no loss reads stay as they are.
        dropout: of whole channels with mmsegmentation, else of single elements; in the auxiliary heads, too.
        num_classes, align_corners, backbone_weights: see models/_network.py.

    Features:
        `stage1`..`stage4`: the semantic branch at strides 4, 8, 16, 32; `context`: stage4 with its global mean;
        `detail`: the other branch at stride 8; `fused`: of both, at stride 8; `head`: what the classifier reads;
        with aux: `aux2`, `aux3`, `aux4`, `aux5`: scores, at the strides 2, 4, 8, 16, with mmsegmentation 4, 8, 16, 32.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        arrangement: Arrangement = "original",
        width: Count = 1024,
        aux: bool = True,
        dropout: Share = 0.1,
        align_corners: bool = False,
        backbone_weights: str | None = None,
    ):
        is_original = arrangement == "original"
        constants = "bisenetv2" if is_original else "imagenet"
        super().__init__(
            num_classes,
            TwoBranches(arrangement),
            False,
            backbone_weights,
            align_corners=align_corners,
            normalize=constants,
        )
        self.refine = ConvBNReLU(WIDTH, width, 3)
        self.dropout = dropout_of("elements" if is_original else "channels", dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.add_features(("head",), width, 8)
        heads = {}
        for name, stage in AUX.items() if aux else ():
            stride = self.strides[stage]
            heads[name] = _AuxHead(self.channels[stage], stride**2, num_classes, dropout, arrangement)
            self.add_features((name,), num_classes, stride // 2 if is_original else stride)
        self.aux_heads = nn.ModuleDict(heads)
        self.own_heads = {name: f"aux_heads.{name}" for name in heads}
        if is_original:
            for part in (self.refine, self.classifier, self.aux_heads):
                init_kaiming(part)
        else:
            init_heads(self)

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["head"] = self.dropout(self.refine(found["fused"]))
        found["logits"] = self.classifier(found["head"])
        for name in self.aux_heads.keys() & wanted:
            height, width = (-(-side // self.strides[name]) for side in x.shape[-2:])
            found[name] = self.aux_heads[name](found[AUX[name]])[..., :height, :width]
        return found
