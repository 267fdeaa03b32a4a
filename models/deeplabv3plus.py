"""DeepLabV3+: DeepLabV3 with a decoder that refines the result with a stride-4 map."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._backbones import Backbone, DilationRule, Stem, Stride, build_backbone, head_width
from ._heads import (
    ASPP,
    ASPP_RATES,
    ConvBNReLU,
    DropoutKind,
    FCNHead,
    HeadInit,
    Projection,
    conv3x3,
    dropout_of,
    init_heads,
)
from ._network import Count, Network, Share
from ._prediction import resize
from ._weights import load_backbone

LOW_LEVEL_WIDTH = 48


@dataclass(frozen=True)
class _Arrangement:
    """What one code makes of the paper: the arguments of DeepLabV3Plus that are not given, and what only it decides."""

    width: int | None
    separable: bool
    projection: Projection
    projection_dropout: float
    decoder_dropout: float  # between the two 3x3
    dropout: float
    dropout_kind: DropoutKind
    aux: bool
    align_corners: bool
    head_init: HeadInit


ARRANGEMENTS = {
    "mmseg": _Arrangement(None, True, "3x3", 0.0, 0.0, 0.1, "channels", True, False, "kaiming"),
    "aicsd": _Arrangement(256, False, "1x1", 0.5, 0.5, 0.1, "elements", False, True, "fan_in"),
    "unimatch": _Arrangement(256, False, "1x1", 0.0, 0.0, 0.0, "elements", False, True, "torch"),
}


class DeepLabV3Plus(Network):
    """logits = classifier(dropout(decoder([resize(ASPP(stage4)), low_level(stage1)]))), in training also FCN(stage3).

    Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018,
    arXiv 1802.02611: low level 1x1 to 48 channels, decoder of two 3x3, in the arrangements of three codes:

                 width         dilated and decoder 3x3   projection         between the 3x3   last dropout   aux
        mmseg    see `width`   depthwise + pointwise     3x3                                  0.1            yes
        aicsd    256           whole                     1x1, dropout 0.5   dropout 0.5       0.1            no
        unimatch 256           whole                     1x1                                  0              no

    mmseg (mmsegmentation) drops whole channels and resizes with align_corners false; aicsd (also its ancestors, Heo et
    al.'s overhaul and pytorch-deeplab-xception) drops elements; it and unimatch resize with align_corners true.
    AICSD's networks are those with dilation_rule aicsd, plain stem and output_stride 16; UniMatch's those with
    stem v1s or the backbone xception65.

    Args:
        arrangement: decides what is not given of width, separable, aux, the dropouts and align_corners.
        output_stride: of stage4 (the logits have stage1's stride); rates 12, 24, 36 at 8, else 6, 12, 18.
        width: channels of each pyramid branch, the decoder and `head`; None with mmseg: 512 on resnet50 and
            resnet101, else 128.
        separable: dilated and decoder 3x3 as depthwise + pointwise, or whole.
        projection_dropout: share dropped behind the pyramid. AICSD's distilled students run without theirs (0).
        num_classes, backbone, stem, dilation_rule, aux, aux_width, dropout, align_corners, pretrained,
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
        align_corners: bool | None = None,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        usual = ARRANGEMENTS[arrangement]
        encoder = build_backbone(backbone, output_stride, stem, dilation_rule)
        super().__init__(
            num_classes, encoder, align_corners=usual.align_corners if align_corners is None else align_corners
        )
        width = width or usual.width or head_width(backbone)
        separable = usual.separable if separable is None else separable
        aux = usual.aux if aux is None else aux
        dropout = usual.dropout if dropout is None else dropout
        if projection_dropout is None:
            projection_dropout = usual.projection_dropout
        channels, strides = encoder.channels, encoder.strides

        rates = ASPP_RATES[output_stride]
        self.aspp = ASPP(channels["stage4"], width, rates, self.align_corners, separable, usual.projection)
        self.projection_dropout = dropout_of(usual.dropout_kind, projection_dropout)
        self.low_level = ConvBNReLU(channels["stage1"], LOW_LEVEL_WIDTH, 1)
        self.decoder = nn.ModuleList(
            [conv3x3(width + LOW_LEVEL_WIDTH, width, separable=separable), conv3x3(width, width, separable=separable)]
        )
        self.decoder_dropout = dropout_of(usual.dropout_kind, usual.decoder_dropout)
        self.dropout = dropout_of(usual.dropout_kind, dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.has_aux = aux
        if aux:
            aux_width = aux_width or width // 2
            self.aux_head = FCNHead(channels["stage3"], aux_width, num_classes, dropout, usual.dropout_kind)
        init_heads(self, usual.head_init)
        load_backbone(self.backbone, pretrained, backbone_weights)

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
        found["head"] = self.dropout(found["decoder"])
        found["logits"] = self.classifier(found["head"])  # (B, K, h, w)
        if "aux" in wanted:
            found["aux"] = self.aux_head(found["stage3"])
        return found
