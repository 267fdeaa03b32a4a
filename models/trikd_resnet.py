"""TriKD's convolutional view: ResNet with a UPer decoder of frequency attention."""

from typing import Literal

from torch import Tensor, nn

from ._backbones import build_backbone
from ._frequency import Center, CutoffUnit
from ._prediction import Normalize, Prediction, pick_features, refuse_prompt
from ._uper import UperDecoder
from ._weights import load_backbone


class TriKDResNet(nn.Module):
    """logits = UperDecoder(stage1..stage4) of an undilated ResNet with a stem of three 3x3 convolutions.

    Li et al., Triple-View Knowledge Distillation for Semi-Supervised Semantic Segmentation, IEEE TMM 28, 2026,
    arXiv 2309.12557 (its ConvNet view).

    Args:
        num_classes: K.
        backbone: resnet101, as published, or resnet50; the stem has 64, 64, 128 channels.
        widths: channels of the decoder's four levels.
        dropout: share of whole channels dropped right before the classifier.
        cutoff, cutoff_unit, center: of the decoder's band filters, see BandFilter.
        pretrained: start the backbone from ImageNet weights that timm has or downloads.
        backbone_weights: start it from this local file (timm's or torchvision's keys) instead.

    Shapes:
        images: (B, 3, H, W) uint8 RGB. logits: (B, K, ceil(H / 4), ceil(W / 4)).

    Features (a prediction holds those named in the attribute `features_wanted`, at first none):
        those of the backbone; `low`: stage1 under the name of the student's feature it is a goal for; `head`: what the
        classifier reads.

    Raises:
        ValueError: an impossible argument, unfitting weights, a wanted feature there is none of, a prompt,
            or a batch of 1 in training. FileNotFoundError: no such weights.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Literal["resnet50", "resnet101"] = "resnet101",
        widths: tuple[int, int, int, int] = (128, 256, 256, 512),
        dropout: float = 0.1,
        cutoff: float = 10.0,
        cutoff_unit: CutoffUnit = "cycles_per_map",
        center: Center = "released",
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = True
        self.features_wanted: set[str] = set()
        self.aux_wanted = False
        self.aux_head = None
        self.normalize = Normalize.named("imagenet")
        self.backbone = build_backbone(backbone, 32, "v1s")
        self.norms = self.backbone.norms
        channels, strides = self.backbone.channels, self.backbone.strides
        stages = tuple(channels[f"stage{n}"] for n in (1, 2, 3, 4))
        filters = {"cutoff": cutoff, "cutoff_unit": cutoff_unit, "center": center}
        self.decoder = UperDecoder(stages, tuple(widths), num_classes, dropout=dropout, **filters)
        self.channels: dict[str, int] = channels | {"low": stages[0], "head": self.decoder.cls_seg[1].in_channels}
        self.strides: dict[str, int] = strides | {"low": strides["stage1"], "head": strides["stage1"]}
        load_backbone(self.backbone, pretrained, backbone_weights)

    def forward(self, images: Tensor, prompt: Tensor | None = None) -> Prediction:
        refuse_prompt(self, prompt)
        found = self.backbone(self.normalize(images), self.features_wanted)
        found["low"] = found["stage1"]
        logits, found["head"] = self.decoder([found[f"stage{n}"] for n in (1, 2, 3, 4)])  # (B, K, h, w)
        return Prediction(logits, self.align_corners, None, pick_features(found, self.features_wanted, self))
