"""DeepLabV3: a dilated backbone and atrous spatial pyramid pooling."""

from typing import Literal

from torch import Tensor, nn

from ._backbones import Backbone, DilationRule, Stem, build_backbone, head_width
from ._heads import ASPP, ASPP_RATES, ConvBNReLU, DropoutKind, FCNHead, HeadInit, Projection, dropout_of, init_heads
from ._prediction import Normalize, Prediction, pick_features, refuse_prompt
from ._weights import load_backbone


class DeepLabV3(nn.Module):
    """logits = classifier(dropout(ASPP(stage4))), in training also FCN(stage3).

    Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv 1706.05587. By default in
    mmsegmentation's arrangement: 3x3 projection, no further convolution before the classifier.

    Args:
        num_classes: K.
        backbone: the encoder, see models/_backbones.py.
        output_stride: stride of stage4 and of the logits; rates 12, 24, 36 at 8 and 6, 12, 18 at 16 and 32.
        stem: the ResNet's first layers, one 7x7 (plain) or three 3x3 of 32-32-64 (v1c) or 64-64-128 (v1s) channels.
        dilation_rule: which convolutions of the backbone are dilated.
        width: channels of each pyramid branch and of `head`; None: 512 on resnet50 and resnet101, else 128.
        projection: how the pyramid ends: `3x3` (mmsegmentation), or `1x1` (the paper, torchvision, CIRKD, DIST): 1x1,
            dropout of half the elements, and one more 3x3 of the same width.
        aux: with an auxiliary head on stage3, run in training or when `aux_wanted` is set.
        aux_width: channels of the auxiliary head; None: width / 2.
        dropout: share dropped right before each classifier.
        dropout_kind: whole channels (mmsegmentation) or single elements (torchvision, CIRKD, DIST).
        head_init: initial weights of the heads, Kaiming normal (mmsegmentation) or torch's own (the others).
        align_corners: for every bilinear resize, inside and of the logits.
        pretrained: start the backbone from ImageNet weights that timm has or downloads.
        backbone_weights: start it from this local file instead, with timm's keys or another code's.

    Shapes:
        images: (B, 3, H, W) uint8 RGB. logits: (B, K, ceil(H / s), ceil(W / s)), s = output_stride.
        aux: (B, K, h, w) at the stride of stage3.

    Features (a prediction holds those named in the attribute `features_wanted`, at first none):
        those of the backbone; `aspp`: the pyramid's output; with a 1x1 projection `refined`: the further 3x3's output;
        `head`: what the classifier reads, the last of these after dropout.

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
        projection: Projection = "3x3",
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
        names = ("aspp", "head") if projection == "3x3" else ("aspp", "refined", "head")
        self.channels: dict[str, int] = channels | dict.fromkeys(names, width)
        self.strides: dict[str, int] = strides | dict.fromkeys(names, strides["stage4"])

        rates = ASPP_RATES[output_stride]
        self.aspp = ASPP(channels["stage4"], width, rates, align_corners, projection=projection)
        if projection == "1x1":
            self.projection_dropout = nn.Dropout(0.5)
            self.refine = ConvBNReLU(width, width, 3)
        self.dropout = dropout_of(dropout_kind, dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        aux_width = aux_width or width // 2
        self.aux_head = FCNHead(channels["stage3"], aux_width, num_classes, dropout, dropout_kind) if aux else None
        init_heads(self, head_init)
        load_backbone(self.backbone, pretrained, backbone_weights)

    def forward(self, images: Tensor, prompt: Tensor | None = None) -> Prediction:
        refuse_prompt(self, prompt)
        found = self.backbone(self.normalize(images), self.features_wanted)
        found["aspp"] = self.aspp(found["stage4"])
        if "refined" in self.channels:
            found["refined"] = self.refine(self.projection_dropout(found["aspp"]))
        found["head"] = self.dropout(found.get("refined", found["aspp"]))
        logits = self.classifier(found["head"])  # (B, K, h, w)
        asked = self.aux_head is not None and (self.training or self.aux_wanted)
        aux = self.aux_head(found["stage3"]) if asked else None
        return Prediction(logits, self.align_corners, aux, pick_features(found, self.features_wanted, self))
