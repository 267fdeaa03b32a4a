"""DeepLabV3+: DeepLabV3 with a decoder that refines the result with a stride-4 map."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._backbones import Backbone, DilationRule, Stem, Stride, build_backbone, head_width
from ._heads import ASPP, ASPP_RATES, ConvBNReLU, HeadInit, add_classifiers, classify, conv3x3, dropout_of
from ._network import Count, Network, Share
from ._prediction import resize

LOW_LEVEL_WIDTH = 48
# what each code makes of the paper where nothing else is given; `decoder_dropout` is between the two 3x3
ARRANGEMENTS = {
    "mmseg": {"width": None, "separable": True, "aux": True, "align_corners": False, "head_init": "kaiming",
              "projection": "3x3", "projection_dropout": 0.0, "decoder_dropout": 0.0, "dropout": 0.1,
              "dropout_kind": "channels"},
    "aicsd": {"width": 256, "separable": False, "aux": False, "align_corners": True, "head_init": "fan_in",
              "projection": "1x1", "projection_dropout": 0.5, "decoder_dropout": 0.5, "dropout": 0.1,
              "dropout_kind": "elements"},
    "unimatch": {"width": 256, "separable": False, "aux": False, "align_corners": True, "head_init": "torch",
                 "projection": "1x1", "projection_dropout": 0.0, "decoder_dropout": 0.0, "dropout": 0.0,
                 "dropout_kind": "elements"},
}  # fmt: skip


class DeepLabV3Plus(Network):
    """logits = classifier(dropout(decoder([resize(ASPP(stage4)), low_level(stage1)]))), in training also FCN(stage3).

    Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018,
    arXiv 1802.02611: low level 1x1 to 48 channels, decoder of two 3x3, in the arrangements of three codes, see
    ARRANGEMENTS: mmsegmentation's; AICSD's and its ancestors' (Heo et al.'s overhaul, pytorch-deeplab-xception), with
    dilation_rule aicsd, plain stem and output_stride 16; UniMatch's, with stem v1s or the backbone xception65.

    Args:
        arrangement: decides what is not given of width, separable, aux, the dropouts, head_init and align_corners.
        output_stride: of stage4 (the logits have stage1's stride); rates 12, 24, 36 at 8, else 6, 12, 18.
        width: channels of each pyramid branch, the decoder and `head`; None with mmseg: 512 on resnet50 and
            resnet101, else 128.
        separable: dilated and decoder 3x3 as depthwise + pointwise, or whole.
        projection_dropout: share dropped behind the pyramid. AICSD's distilled students run without theirs (0).
        num_classes, backbone, stem, dilation_rule, aux, aux_width, dropout, head_init, align_corners, pretrained,
        backbone_weights: see models/_network.py.

    Features:
        those of the backbone; `aspp`: the pyramid's output at stride `output_stride`, before its dropout; `low_level`:
        the 48 channels made of stage1; `decoder`: the second 3x3's output; `head`: what the classifier reads, `decoder`
        after dropout; `aspp_pre`, `decoder_pre`: batch norm outputs of which `aspp` and `decoder` are the ReLU.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        arrangement: Literal["mmseg", "aicsd", "unimatch"] = "mmseg",
        backbone: Backbone = "resnet18",
        output_stride: Stride = 8,
        stem: Stem = "plain",
        dilation_rule: DilationRule = "timm",
        width: Count | None = None,
        separable: bool | None = None,
        aux: bool | None = None,
        aux_width: Count | None = None,
        projection_dropout: Share | None = None,
        dropout: Share | None = None,
        head_init: HeadInit | None = None,
        align_corners: bool | None = None,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        given = {"width": width, "separable": separable, "aux": aux, "projection_dropout": projection_dropout,
                 "dropout": dropout, "head_init": head_init, "align_corners": align_corners}  # fmt: skip
        chosen = ARRANGEMENTS[arrangement] | {name: value for name, value in given.items() if value is not None}
        encoder = build_backbone(backbone, output_stride, stem, dilation_rule)
        super().__init__(num_classes, encoder, pretrained, backbone_weights, align_corners=chosen["align_corners"])
        channels, strides = encoder.channels, encoder.strides
        width, separable = chosen["width"] or head_width(backbone), chosen["separable"]
        kind = chosen["dropout_kind"]

        rates = ASPP_RATES[output_stride]
        self.aspp = ASPP(channels["stage4"], width, rates, self.align_corners, separable, chosen["projection"])
        self.projection_dropout = dropout_of(kind, chosen["projection_dropout"])
        self.low_level = ConvBNReLU(channels["stage1"], LOW_LEVEL_WIDTH, 1)
        self.decoder = nn.ModuleList(
            [conv3x3(width + LOW_LEVEL_WIDTH, width, separable=separable), conv3x3(width, width, separable=separable)]
        )
        self.decoder_dropout = dropout_of(kind, chosen["decoder_dropout"])
        aux_width = (aux_width or width // 2) if chosen["aux"] else None
        add_classifiers(self, width, aux_width, chosen["dropout"], kind, chosen["head_init"])

        self.add_features(("aspp_pre", "aspp"), width, strides["stage4"])
        self.add_features(("low_level",), LOW_LEVEL_WIDTH, strides["stage1"])
        self.add_features(("decoder_pre", "decoder", "head"), width, strides["stage1"])
        last = self.decoder[1].pointwise.bn if separable else self.decoder[1].bn
        norms = {"aspp_pre": self.aspp.project.bn, "decoder_pre": last}
        self.norms |= {name: (norm.weight, norm.bias) for name, norm in norms.items()}

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        # a ReLU overwrites the map before it unless that is wanted
        found["aspp_pre"] = self.aspp.before_relu(found["stage4"])
        found["aspp"] = F.relu(found["aspp_pre"], inplace="aspp_pre" not in wanted)
        found["low_level"] = self.low_level(found["stage1"])
        context = resize(self.projection_dropout(found["aspp"]), found["low_level"].shape[-2:], self.align_corners)
        x = self.decoder[0](torch.cat([context, found["low_level"]], dim=1))  # (B, width + 48, h, w) in
        found["decoder_pre"] = self.decoder[1].before_relu(self.decoder_dropout(x))
        found["decoder"] = F.relu(found["decoder_pre"], inplace="decoder_pre" not in wanted)
        return classify(self, found["decoder"], found, wanted)
