"""PSPNet: a dilated backbone and pyramid pooling over four grids."""

from typing import Literal

from torch import Tensor, nn

from ._backbones import Backbone, DilationRule, Stem, build_backbone, head_width
from ._heads import DropoutKind, FCNHead, HeadInit, PyramidPooling, dropout_of, init_heads
from ._prediction import Normalize, Prediction, pick_features, refuse_prompt
from ._weights import load_backbone


class PSPNet(nn.Module):
    """logits = classifier(dropout(pyramid(stage4))), in training also FCN(stage3).

    Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105. By default in mmsegmentation's
    arrangement: grids of 1, 2, 3 and 6 bins, each `width` wide.

    Args:
        num_classes: K.
        backbone: the encoder, see models/_backbones.py.
        output_stride: stride of stage4 and of the logits.
        stem: the ResNet's first layers, one 7x7 (plain) or three 3x3 of 32-32-64 (v1c) or 64-64-128 (v1s) channels.
        dilation_rule: which convolutions of the backbone are dilated.
        width: channels of the pyramid's output and of `head`; None: 512 on resnet50 and resnet101, else 128.
        level_width: channels of each pyramid level; None: `width` (the paper, CIRKD and DIST have stage4's / 4).
        aux: with an auxiliary head on stage3, run in training or when `aux_wanted` is set.
        aux_width: channels of the auxiliary head; None: width / 2.
        dropout: share dropped right before each classifier.
        dropout_kind: whole channels (mmsegmentation) or single elements (CIRKD, DIST).
        head_init: initial weights of the heads, Kaiming normal (mmsegmentation) or torch's own (CIRKD, DIST).
        align_corners: for every bilinear resize, inside and of the logits.
        pretrained: start the backbone from ImageNet weights that timm has or downloads.
        backbone_weights: start it from this local file instead, with timm's keys or another code's.

    Shapes:
        images: (B, 3, H, W) uint8 RGB. logits: (B, K, ceil(H / s), ceil(W / s)), s = output_stride.
        aux: (B, K, h, w) at the stride of stage3.

    Features (a prediction holds those named in the attribute `features_wanted`, at first none):
        those of the backbone; `pyramid`: the pyramid's output; `head`: what the classifier reads, it after dropout.

    Raises:
        ValueError: an impossible argument, unfitting weights, a wanted feature there is none of, a prompt,
            or a batch of 1 in training. FileNotFoundError: no such weights.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone = "resnet18",
        output_stride: Literal[8, 16, 32] = 8,
        stem: Stem = "plain",
        dilation_rule: DilationRule = "timm",
        width: int | None = None,
        level_width: int | None = None,
        aux: bool = True,
        aux_width: int | None = None,
        dropout: float = 0.1,
        dropout_kind: DropoutKind = "channels",
        head_init: HeadInit = "kaiming",
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
        self.channels: dict[str, int] = channels | {"pyramid": width, "head": width}
        self.strides: dict[str, int] = strides | {"pyramid": strides["stage4"], "head": strides["stage4"]}

        self.pyramid = PyramidPooling(channels["stage4"], width, align_corners, level_width=level_width)
        self.dropout = dropout_of(dropout_kind, dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        aux_width = aux_width or width // 2
        self.aux_head = FCNHead(channels["stage3"], aux_width, num_classes, dropout, dropout_kind) if aux else None
        init_heads(self, head_init)
        load_backbone(self.backbone, pretrained, backbone_weights)

    def forward(self, images: Tensor, prompt: Tensor | None = None) -> Prediction:
        refuse_prompt(self, prompt)
        found = self.backbone(self.normalize(images), self.features_wanted)
        found["pyramid"] = self.pyramid(found["stage4"])
        found["head"] = self.dropout(found["pyramid"])
        logits = self.classifier(found["head"])  # (B, K, h, w)
        asked = self.aux_head is not None and (self.training or self.aux_wanted)
        aux = self.aux_head(found["stage3"]) if asked else None
        return Prediction(logits, self.align_corners, aux, pick_features(found, self.features_wanted, self))
