"""DeepLabV3: a dilated backbone and atrous spatial pyramid pooling."""

from torch import Tensor, nn

from ._backbones import Backbone, DilationRule, Stem, Stride, build_backbone, head_width
from ._heads import ASPP, ASPP_RATES, ConvBNReLU, DropoutKind, HeadInit, Projection, add_classifiers, classify
from ._network import Count, Network, Share


class DeepLabV3(Network):
    """logits = classifier(dropout(ASPP(stage4))), in training also FCN(stage3).

    Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv 1706.05587. By default in
    mmsegmentation's arrangement: 3x3 projection, no further convolution before the classifier.

    Args:
        output_stride: of the logits too; rates 12, 24, 36 at 8 and 6, 12, 18 at 16 and 32.
        width: channels of each pyramid branch and of `head`; None: 512 on resnet50 and resnet101, else 128.
        projection: how the pyramid ends: `3x3` (mmsegmentation), or `1x1` (the paper, torchvision, CIRKD, DIST): 1x1,
            dropout of half the elements, and one more 3x3 of the same width.
        num_classes, backbone, stem, dilation_rule, aux, aux_width, dropout, dropout_kind, head_init, align_corners,
        pretrained, backbone_weights: see models/_network.py.

    Features:
        those of the backbone; `aspp`: the pyramid's output; with a 1x1 projection `refined`: the further 3x3's output;
        `head`: what the classifier reads, the last of these after dropout.
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
        projection: Projection = "3x3",
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
        names = ("aspp", "head") if projection == "3x3" else ("aspp", "refined", "head")
        self.add_features(names, width, self.strides["stage4"])

        rates = ASPP_RATES[output_stride]
        self.aspp = ASPP(self.channels["stage4"], width, rates, align_corners, projection=projection)
        if projection == "1x1":
            self.projection_dropout = nn.Dropout(0.5)
            self.refine = ConvBNReLU(width, width, 3)
        add_classifiers(self, width, (aux_width or width // 2) if aux else None, dropout, dropout_kind, head_init)

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["aspp"] = self.aspp(found["stage4"])
        if "refined" in self.channels:
            found["refined"] = self.refine(self.projection_dropout(found["aspp"]))
        return classify(self, found.get("refined", found["aspp"]), found, wanted)
