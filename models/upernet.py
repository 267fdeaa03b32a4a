"""UPerNet: a backbone and a feature pyramid over its four stages."""

from torch import Tensor, nn

from ._backbones import Backbone, DilationRule, Stem, Stride, build_backbone
from ._heads import BINS, DropoutKind, HeadInit, add_classifiers, classify
from ._network import Count, Network, Share, stages
from ._upernet_head import Arrangement, UPerHead


class UPerNet(Network):
    """logits = classifier(dropout(UPer head(stage1, ..., stage4))), in training also FCN(stage3).

    Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221, with the segmentation
    head alone.

    Args:
        arrangement: `mmseg` is mmsegmentation's head, logits at the stride of stage1. `cirkd` is CIRKD's (`upernet`,
            width 512, and `upernet_lite`, width 128): pooled levels are resized before their 1x1 and 512 wide, the last
            3x3 has stride 2, nothing is dropped before the classifier, and no resize inside aligns corners.
        width: channels of every level of the head and of `head`.
        bins: grids of the pyramid pooling on stage4.
        aux_width: channels of the auxiliary head; None: 256, in CIRKD's arrangement a quarter of stage3.
        num_classes, backbone, output_stride, stem, dilation_rule, aux, dropout, dropout_kind, head_init, align_corners,
        pretrained, backbone_weights: see models/_network.py.

    Features:
        those of the backbone; `decoder`: the head's fused map; `head`: what the classifier reads, `decoder` after
        dropout.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone = "resnet18",
        output_stride: Stride = 32,
        stem: Stem = "plain",
        dilation_rule: DilationRule = "timm",
        arrangement: Arrangement = "mmseg",
        width: Count = 512,
        bins: tuple[Count, ...] = BINS,
        aux: bool = True,
        aux_width: Count | None = None,
        dropout: Share = 0.1,
        dropout_kind: DropoutKind = "channels",
        head_init: HeadInit = "kaiming",
        align_corners: bool = False,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        encoder = build_backbone(backbone, output_stride, stem, dilation_rule)
        super().__init__(num_classes, encoder, pretrained, backbone_weights, align_corners=align_corners)
        is_cirkd = arrangement == "cirkd"
        self.add_features(("decoder", "head"), width, self.strides["stage1"] * (2 if is_cirkd else 1))

        self.head = UPerHead(
            stages(self.channels), width, bins=bins, align_corners=align_corners, arrangement=arrangement
        )
        aux_width = aux_width or (self.channels["stage3"] // 4 if is_cirkd else 256)
        add_classifiers(self, width, aux_width if aux else None, dropout, dropout_kind, head_init)
        if is_cirkd:
            self.dropout = nn.Identity()

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["decoder"] = self.head(stages(found))
        return classify(self, found["decoder"], found, wanted)
