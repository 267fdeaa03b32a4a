"""UPerNet: a backbone and a feature pyramid over its four stages."""

from typing import Literal, get_args

from torch import Tensor, nn

from ._backbones import Backbone, DilationRule, Stem, build_backbone
from ._heads import DropoutKind, FCNHead, HeadInit, dropout_of, init_heads
from ._prediction import Normalize, Prediction, pick_features, refuse_prompt
from ._uperhead import BINS, Arrangement, UPerHead
from ._weights import load_backbone


class UPerNet(nn.Module):
    """logits = classifier(dropout(UPer head(stage1, ..., stage4))), in training also FCN(stage3).

    Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221, with the segmentation
    head alone.

    Args:
        num_classes: K.
        backbone: the encoder, see models/_backbones.py.
        output_stride: stride of stage4; 32 leaves the backbone undilated.
        stem: the ResNet's first layers, one 7x7 (plain) or three 3x3 of 32-32-64 (v1c) or 64-64-128 (v1s) channels.
        dilation_rule: which convolutions of the backbone are dilated.
        arrangement: `mmseg` is mmsegmentation's head, logits at the stride of stage1. `cirkd` is CIRKD's (`upernet`,
            width 512, and `upernet_lite`, width 128): pooled levels are resized before their 1x1 and 512 wide, the last
            3x3 has stride 2, nothing is dropped before the classifier, and no resize inside aligns corners.
        width: channels of every level of the head and of `head`.
        bins: grids of the pyramid pooling on stage4.
        aux: with an auxiliary head on stage3, run in training or when `aux_wanted` is set.
        aux_width: channels of the auxiliary head; None: 256, in CIRKD's arrangement a quarter of stage3.
        dropout: share dropped right before each classifier, in CIRKD's arrangement before the auxiliary one alone.
        dropout_kind: drop whole channels or single elements.
        head_init: initial weights of the heads, mmsegmentation's (Kaiming, small classifiers) or torch's own.
        align_corners: for the resize of the logits, in mmsegmentation's arrangement also for those inside.
        pretrained: start the backbone from ImageNet weights that timm has or downloads.
        backbone_weights: start it from this local file instead.

    Shapes:
        images: (B, 3, H, W) uint8 RGB. logits: (B, K, ceil(H / 4), ceil(W / 4)), in CIRKD's arrangement stride 8.
        aux: (B, K, h, w) at the stride of stage3.

    Features (a prediction holds those named in the attribute `features_wanted`, at first none):
        those of the backbone; `decoder`: the head's fused map; `head`: what the classifier reads, `decoder` after
        dropout.

    Raises:
        ValueError: an impossible argument, unfitting weights, a wanted feature there is none of, a prompt,
            or (mmseg) a batch of 1 in training. FileNotFoundError: no such weights.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone = "resnet18",
        output_stride: Literal[8, 16, 32] = 32,
        stem: Stem = "plain",
        dilation_rule: DilationRule = "timm",
        arrangement: Arrangement = "mmseg",
        width: int = 512,
        bins: tuple[int, ...] = BINS,
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
        if arrangement not in get_args(Arrangement):
            raise ValueError(f"arrangement must be one of {', '.join(get_args(Arrangement))}, got {arrangement!r}")
        is_cirkd = arrangement == "cirkd"
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.features_wanted: set[str] = set()
        self.aux_wanted = False
        self.normalize = Normalize.named("imagenet")
        self.backbone = build_backbone(backbone, output_stride, stem, dilation_rule)
        self.norms = self.backbone.norms
        channels, strides = self.backbone.channels, self.backbone.strides
        stride = strides["stage1"] * (2 if is_cirkd else 1)
        self.channels: dict[str, int] = channels | {"decoder": width, "head": width}
        self.strides: dict[str, int] = strides | {"decoder": stride, "head": stride}

        self.head = UPerHead(
            tuple(channels[f"stage{i}"] for i in (1, 2, 3, 4)),
            width,
            bins=bins,
            align_corners=align_corners,
            arrangement=arrangement,
        )
        self.dropout = nn.Identity() if is_cirkd else dropout_of(dropout_kind, dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        aux_width = aux_width or (channels["stage3"] // 4 if is_cirkd else 256)
        self.aux_head = FCNHead(channels["stage3"], aux_width, num_classes, dropout, dropout_kind) if aux else None
        init_heads(self, head_init)
        load_backbone(self.backbone, pretrained, backbone_weights)

    def forward(self, images: Tensor, prompt: Tensor | None = None) -> Prediction:
        refuse_prompt(self, prompt)
        found = self.backbone(self.normalize(images), self.features_wanted)
        found["decoder"] = self.head([found[f"stage{i}"] for i in (1, 2, 3, 4)])
        found["head"] = self.dropout(found["decoder"])
        logits = self.classifier(found["head"])  # (B, K, h, w)
        asked = self.aux_head is not None and (self.training or self.aux_wanted)
        aux = self.aux_head(found["stage3"]) if asked else None
        return Prediction(logits, self.align_corners, aux, pick_features(found, self.features_wanted, self))
