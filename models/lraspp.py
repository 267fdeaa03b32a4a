"""LR-ASPP on MobileNetV3: one map gated by its average, and shallow maps beside it; the lightest head there is."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._heads import ConvBNReLU, dropout_of, init_heads
from ._mobilenet import MobileNetV3, MobileNetV3Name
from ._network import Count, Network, Positive, Share
from ._prediction import resize

POOL, POOL_STRIDE = 49, (16, 20)  # of mmsegmentation's gate, in pixels of stage4
LEVEL_WIDTHS = (32, 64)  # channels mmsegmentation makes of stage0 and stage1


class LRASPP(Network):
    """logits = classifier(up(project(stage4) * gate(mean of stage4))) + low_classifier(stage2_first), at stride 8.

    Howard et al., Searching for MobileNetV3, ICCV 2019, arXiv 1905.02244, as torchvision has it. mmsegmentation's is
    another network: averages over windows of 49 x 49 at output stride 8, no scores of a shallow map but stage1 and
    stage0 concatenated and fused on the way up, logits at stride 2. There a map smaller than a window is averaged as a
    whole; mmsegmentation refuses images below 385 x 385.

    Args:
        arrangement: whose network: the stride of stage4 (16 or 8), dilations and padding of the encoder, the head.
        width: channels of the gated map.
        dropout: of whole channels, before the classifier; None: 0.1 in mmsegmentation's arrangement, else 0.
        norm_eps: of the encoder's batch norms, in mmsegmentation's arrangement of all; the other codes have 1e-3,
            timm's published weights 1e-5.
        norm_momentum: share of a batch in the running statistics of the same batch norms; torchvision has 0.01.
        num_classes, backbone (MobileNetV3 only), align_corners, pretrained, backbone_weights: see models/_network.py.

    Features:
        those of the backbone, stage0 among them; `gated`: the gated map at the stride of stage4; `head`: what the
        classifier reads, `gated` at stride 8 or, with mmsegmentation, fused with stage1 and stage0 at stride 2.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: MobileNetV3Name = "mobilenetv3_large_100",
        arrangement: Literal["torchvision", "mmseg"] = "torchvision",
        width: Count = 128,
        dropout: Share | None = None,
        norm_eps: Positive = 1e-5,
        norm_momentum: Share = 0.1,
        align_corners: bool = False,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        fuses = arrangement == "mmseg"
        encoder = MobileNetV3(backbone, 8 if fuses else 16, arrangement)
        set_norms(encoder, norm_eps, norm_momentum)
        super().__init__(num_classes, encoder, pretrained, backbone_weights, align_corners=align_corners)
        self.project = ConvBNReLU(self.channels["stage4"], width, 1)
        self.gate = nn.Sequential(nn.Conv2d(self.channels["stage4"], width, 1, bias=False), nn.Sigmoid())
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.low_classifier = None
        if fuses:
            self.refine = nn.Conv2d(width, width, 1)
            pairs = list(zip(("stage0", "stage1"), LEVEL_WIDTHS, strict=True))
            self.levels = nn.ModuleList([nn.Conv2d(self.channels[name], size, 1, bias=False) for name, size in pairs])
            self.fuse = nn.ModuleList([ConvBNReLU(width + size, width, 1) for _, size in pairs])
        else:
            self.low_classifier = nn.Conv2d(self.channels["stage2_first"], num_classes, 1)
        self.dropout = dropout_of("channels", (0.1 if fuses else 0.0) if dropout is None else dropout)
        init_heads(self, "kaiming" if fuses else "torch")
        for plain in (self.refine, *self.levels) if fuses else ():
            plain.reset_parameters()  # neither a classifier nor before a norm
        if fuses:
            set_norms(self, norm_eps, norm_momentum)
        self.add_features(("gated",), width, self.strides["stage4"])
        self.add_features(("head",), width, 2 if fuses else 8)

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted | {"stage0", "stage2_first"})
        high, fuses = found["stage4"], self.low_classifier is None
        if fuses:
            window = [min(POOL, side) for side in high.shape[-2:]]
            mean = F.avg_pool2d(high, window, POOL_STRIDE)
        else:
            mean = high.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        gate = self.gate(mean)
        found["gated"] = x = self.project(high) * (resize(gate, high.shape[-2:], self.align_corners) if fuses else gate)
        if fuses:
            x = self.refine(x)
            for index in (1, 0):
                level = found[f"stage{index}"]
                x = torch.cat([resize(x, level.shape[-2:], self.align_corners), self.levels[index](level)], dim=1)
                x = self.fuse[index](x)  # (B, width, h, w) at the level's stride
        else:
            x = resize(x, found["stage2_first"].shape[-2:], self.align_corners)
        found["head"] = self.dropout(x)
        found["logits"] = self.classifier(found["head"])
        if not fuses:
            found["logits"] = found["logits"] + self.low_classifier(found["stage2_first"])
        return found


def set_norms(network: nn.Module, eps: float, momentum: float) -> None:
    """Gives every batch norm these in place."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = eps, momentum
