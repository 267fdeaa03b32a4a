"""DeepLabV3+: DeepLabV3 with a decoder that refines the result with a stride-4 map."""

from typing import Literal

import torch
from torch import Tensor, nn

from ._backbones import BackboneName, DilationRule, Stem, build_backbone, head_width
from ._heads import ASPP, ASPP_RATES, ConvBNReLU, FCNHead, conv3x3, init_heads
from ._prediction import Normalize, Prediction, pick_features, refuse_prompt, resize
from ._weights import load_backbone

LOW_LEVEL_WIDTH = 48


class DeepLabV3Plus(nn.Module):
    """logits = classifier(dropout(decoder([resize(ASPP(stage4)), low_level(stage1)]))), in training also FCN(stage3).

    Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018,
    arXiv 1802.02611, in mmsegmentation's arrangement: low level 1x1 to 48 channels, decoder of two 3x3.

    Args:
        num_classes: K.
        backbone: timm's name of the encoder.
        output_stride: stride of stage4 (the logits have 4); rates 12, 24, 36 at 8 and 6, 12, 18 at 16.
        stem: the ResNet's first layers, one 7x7 (plain) or three 3x3 of 32-32-64 (v1c) or 64-64-128 (v1s) channels.
        dilation_rule: which convolutions of the backbone are dilated.
        width: channels of each pyramid branch, the decoder and `head`; None: 512 on resnet50 and resnet101, else 128.
        separable: dilated and decoder 3x3 as depthwise + pointwise (mmsegmentation), or whole (many other codes).
        aux: with an auxiliary head on stage3, run in training or when `aux_wanted` is set.
        aux_width: channels of the auxiliary head; None: width / 2.
        dropout: share of whole channels dropped right before each classifier.
        align_corners: for every bilinear resize, inside and of the logits.
        pretrained: start the backbone from ImageNet weights that timm has or downloads.
        backbone_weights: start it from this local file (timm's or torchvision's keys) instead.

    Shapes:
        images: (B, 3, H, W) uint8 RGB. logits: (B, K, ceil(H / 4), ceil(W / 4)).
        aux: (B, K, h, w) at the stride of stage3.

    Features (a prediction holds those named in the attribute `features_wanted`, at first none):
        those of the backbone; `aspp`: the pyramid's output at stride `output_stride`; `low_level`: the 48 channels made
        of stage1; `decoder`: the second 3x3's output; `head`: what the classifier reads, `decoder` after dropout.

    Raises:
        ValueError: an impossible argument, unfitting weights, a wanted feature there is none of, a prompt,
            or a batch of 1 in training. FileNotFoundError: no such weights.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: BackboneName = "resnet18",
        output_stride: Literal[8, 16] = 8,
        stem: Stem = "plain",
        dilation_rule: DilationRule = "timm",
        width: int | None = None,
        separable: bool = True,
        aux: bool = True,
        aux_width: int | None = None,
        dropout: float = 0.1,
        align_corners: bool = False,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        super().__init__()
        width = width or head_width(backbone)
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.features_wanted: set[str] = set()
        self.aux_wanted = False
        self.normalize = Normalize.named("imagenet")
        self.backbone = build_backbone(backbone, output_stride, stem, dilation_rule)
        channels, strides = self.backbone.channels, self.backbone.strides
        self.norms = self.backbone.norms
        fine, coarse = strides["stage1"], strides["stage4"]
        widths = {"aspp": width, "low_level": LOW_LEVEL_WIDTH, "decoder": width, "head": width}
        self.channels: dict[str, int] = channels | widths
        self.strides: dict[str, int] = strides | {"aspp": coarse, "low_level": fine, "decoder": fine, "head": fine}

        self.aspp = ASPP(channels["stage4"], width, ASPP_RATES[output_stride], align_corners, separable)
        self.low_level = ConvBNReLU(channels["stage1"], LOW_LEVEL_WIDTH, 1)
        self.decoder = nn.Sequential(
            conv3x3(width + LOW_LEVEL_WIDTH, width, separable=separable), conv3x3(width, width, separable=separable)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.aux_head = FCNHead(channels["stage3"], aux_width or width // 2, num_classes, dropout) if aux else None
        init_heads(self)
        load_backbone(self.backbone, pretrained, backbone_weights)

    def forward(self, images: Tensor, prompt: Tensor | None = None) -> Prediction:
        refuse_prompt(self, prompt)
        found = self.backbone(self.normalize(images), self.features_wanted)
        found["aspp"] = self.aspp(found["stage4"])
        found["low_level"] = self.low_level(found["stage1"])
        context = resize(found["aspp"], found["low_level"].shape[-2:], self.align_corners)
        found["decoder"] = self.decoder(torch.cat([context, found["low_level"]], dim=1))  # (B, width + 48, h, w) in
        found["head"] = self.dropout(found["decoder"])
        logits = self.classifier(found["head"])  # (B, K, h, w)
        asked = self.aux_head is not None and (self.training or self.aux_wanted)
        aux = self.aux_head(found["stage3"]) if asked else None
        return Prediction(logits, self.align_corners, aux, pick_features(found, self.features_wanted, self))
