"""PSPNet: a dilated backbone and pyramid pooling over four grids."""

from torch import Tensor

from ._backbones import Backbone, DilationRule, Stem, Stride, build_backbone, head_width
from ._heads import DropoutKind, HeadInit, PyramidPooling, add_classifiers, classify
from ._network import Count, Network, Share


class PSPNet(Network):
    """logits = classifier(dropout(pyramid(stage4))), in training also FCN(stage3).

    Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105. By default in mmsegmentation's
    arrangement: grids of 1, 2, 3 and 6 bins, each `width` wide.

    Args:
        output_stride: of the logits too.
        width: channels of the pyramid's output and of `head`; None: 512 on resnet50 and resnet101, else 128.
        level_width: channels of each pyramid level; None: `width` (the paper, CIRKD and DIST have stage4's / 4).
        num_classes, backbone, stem, dilation_rule, aux, aux_width, dropout, dropout_kind, head_init, align_corners,
        pretrained, backbone_weights: see models/_network.py.

    Features:
        those of the backbone; `pyramid`: the pyramid's output; `head`: what the classifier reads, it after dropout.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone = "resnet18",
        output_stride: Stride = 8,
        stem: Stem = "plain",
        dilation_rule: DilationRule = "timm",
        width: Count | None = None,
        level_width: Count | None = None,
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
        width = width or head_width(backbone)
        self.add_features(("pyramid", "head"), width, self.strides["stage4"])

        self.pyramid = PyramidPooling(self.channels["stage4"], width, align_corners, level_width=level_width)
        add_classifiers(self, width, (aux_width or width // 2) if aux else None, dropout, dropout_kind, head_init)

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["pyramid"] = self.pyramid(found["stage4"])
        return classify(self, found["pyramid"], found, wanted)
