"""TriKD's convolutional view: ResNet with a UPer decoder of frequency attention."""

from typing import Literal

from torch import Tensor

from ._backbones import build_backbone
from ._frequency import Center, CutoffUnit
from ._network import Network, Positive, Share, stages
from ._trikd_decoder import TriKDDecoder, Widths


class TriKDResNet(Network):
    """logits = TriKDDecoder(stage1..stage4) of an undilated ResNet with a stem of three 3x3 convolutions.

    Li et al., IEEE TMM 28, 2026, arXiv 2309.12557 (its ConvNet view).

    Args:
        backbone: resnet101, as published, or resnet50; the stem has 64, 64, 128 channels.
        backbone_weights: start it from this local file (timm's or torchvision's keys) instead.
        num_classes, widths, dropout (of whole channels), cutoff, cutoff_unit, center,
        pretrained: see models/_network.py.

    Features:
        those of the backbone; `low`: stage1 under the name of the student's feature it is a goal for; `head`: what the
        classifier reads.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Literal["resnet50", "resnet101"] = "resnet101",
        widths: Widths = (128, 256, 256, 512),
        dropout: Share = 0.1,
        cutoff: Positive = 10.0,
        cutoff_unit: CutoffUnit = "cycles_per_map",
        center: Center = "released",
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        encoder = build_backbone(backbone, 32, "v1s")
        super().__init__(num_classes, encoder, pretrained, backbone_weights, align_corners=True)
        filters = {"cutoff": cutoff, "cutoff_unit": cutoff_unit, "center": center}
        self.decoder = TriKDDecoder(stages(self.channels), widths, num_classes, dropout=dropout, **filters)
        self.add_features(["low"], self.channels["stage1"], self.strides["stage1"])
        self.add_features(["head"], self.decoder.width, self.strides["stage1"])

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["low"] = found["stage1"]
        found["logits"], found["head"] = self.decoder(stages(found))  # (B, K, h, w)
        return found
