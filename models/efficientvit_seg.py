"""EfficientViT-Seg: EfficientViT and a light head on its last three stages."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Interval
from timm.models.efficientvit_mit import MBConv
from torch import Tensor, nn

from ._efficientvit import EfficientViT, EfficientViTName
from ._network import Count, Network
from ._prediction import at_least_float32

EXPANSION = 4
# encoder -> width and number of inverted residuals of the head
HEADS = {"efficientvit_b0": (32, 1), "efficientvit_b1": (64, 3)}


class _ConvBN(nn.Module):
    """1x1 convolution without bias, batch norm."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class EfficientViTSeg(Network):
    """logits = classifier(expand(middle(inputs(stage2) + up(inputs(stage3)) + up(inputs(stage4))))) at stride 8.

    Cai et al., EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction, ICCV 2023,
    arXiv 2205.14756; the released head, whose training code was never published. `up` is bicubic, cut to the size of
    stage2, so that images may have any size. The published evaluation enlarges the scores bicubically, too.

    Args:
        width: channels of the head; None: 32 on efficientvit_b0, 64 on efficientvit_b1.
        depth: inverted residuals in the middle of the head; None: 1 and 3.
        expand: what the head's end multiplies its width with; 0: the classifier reads the middle itself, as in the
            networks released for ADE20K.
        full_size: the network enlarges its scores to the image's size itself, bicubically; else whoever reads them does
            so bilinearly, which costs less memory and is what a loss then sees.
        num_classes, backbone (EfficientViT only), align_corners, pretrained, backbone_weights: see models/_network.py.

    Features:
        `stage1`..`stage4` at strides 4, 8, 16, 32; `stage0`: the stem's; at stride 8 `fused`: the sum of the three
        stages, `middle`: after the inverted residuals, `head`: what the classifier reads.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: EfficientViTName = "efficientvit_b0",
        width: Count | None = None,
        depth: Count | None = None,
        expand: Annotated[int, Interval(ge=0, le=64)] = 4,
        full_size: bool = False,
        align_corners: bool = False,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        encoder = EfficientViT(backbone)
        super().__init__(num_classes, encoder, pretrained, backbone_weights, align_corners=align_corners)
        own_width, own_depth = HEADS[backbone]
        width, depth = width or own_width, depth or own_depth
        self.inputs = nn.ModuleDict(
            {name: _ConvBN(self.channels[name], width) for name in ("stage4", "stage3", "stage2")}
        )
        activations = (nn.Hardswish, nn.Hardswish, None)
        blocks = [MBConv(width, width, expand_ratio=EXPANSION, act_layer=activations) for _ in range(depth)]
        self.middle = nn.ModuleList(blocks)
        self.expand = _ConvBN(width, expand * width) if expand else None
        self.classifier = nn.Conv2d((expand or 1) * width, num_classes, 1)
        self.full_size = full_size
        self.add_features(("fused", "middle"), width, 8)
        self.add_features(("head",), self.classifier.in_channels, 8)

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        size = found["stage2"].shape[-2:]
        total = self.inputs["stage2"](found["stage2"])
        for name, times in (("stage3", 2.0), ("stage4", 4.0)):
            y = self.inputs[name](found[name])
            enlarged = F.interpolate(at_least_float32(y), scale_factor=times, mode="bicubic", align_corners=False)
            total = total + enlarged[..., : size[0], : size[1]].to(y.dtype)
        found["fused"] = found["middle"] = total
        for block in self.middle:
            found["middle"] = found["middle"] + block(found["middle"])
        found["head"] = found["middle"] if self.expand is None else F.hardswish(self.expand(found["middle"]))
        found["logits"] = self.classifier(found["head"])
        if self.full_size:
            scores = at_least_float32(found["logits"])
            found["logits"] = F.interpolate(scores, size=x.shape[-2:], mode="bicubic", align_corners=False)
        return found
