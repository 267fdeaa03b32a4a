"""TriKD's transformer view: DeiT, a neck that makes a pyramid of its blocks, and a UPer decoder."""

from typing import Literal

from torch import Tensor

from ._deit import DeiT
from ._frequency import Center, CutoffUnit
from ._network import Count, Network, Positive, Ratio, Share, stages
from ._tokens import fitted_encoder
from ._trikd_decoder import TriKDDecoder, TriKDNeck, Widths


class TriKDDeiT(Network):
    """logits = TriKDDecoder(neck(stage1..stage4)) of a plain vision transformer.

    Li et al., IEEE TMM 28, 2026, arXiv 2309.12557 (its ViT view). Images of any size.

    Args:
        variant: base, as published; small and tiny are ours.
        image_size: (height, width) in pixels that the position table is made for: the crop of the training. Images of
            another size read the table resized.
        neck_scales: factors between the grid of patches and the decoder's four levels, shallow to deep. The released
            code's give the deepest blocks the largest maps; (4, 2, 1, 0.5) is the pyramid the right way up, logits at
            stride 4 and 43 % of the decoder's work.
        neck_width: channels of the decoder's inputs.
        backbone_weights: start it from this local file (DeiT's keys) instead. The position table is resized.
        num_classes, widths, drop_path, dropout (of whole channels), cutoff, cutoff_unit, center,
        pretrained: see models/_network.py.

    Shapes:
        logits: (B, K, h, w), h = floor(neck_scales[0] * ceil(H / 16)).

    Features:
        those of the encoder (models/_deit.py); `head`: what the classifier reads.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        variant: Literal["tiny", "small", "base"] = "base",
        image_size: tuple[Count, Count] = (512, 512),
        neck_scales: tuple[Ratio, Ratio, Ratio, Ratio] = (0.5, 1.0, 2.0, 4.0),
        neck_width: Count = 448,
        widths: Widths = (48, 96, 192, 256),
        drop_path: Share = 0.0,
        dropout: Share = 0.1,
        cutoff: Positive = 10.0,
        cutoff_unit: CutoffUnit = "cycles_per_map",
        center: Center = "released",
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        encoder = DeiT(variant, image_size, drop_path)
        super().__init__(num_classes, encoder, pretrained, backbone_weights, align_corners=True)
        self.neck = TriKDNeck(self.channels["stage4"], neck_width, neck_scales)
        filters = {"cutoff": cutoff, "cutoff_unit": cutoff_unit, "center": center}
        self.decoder = TriKDDecoder((neck_width,) * 4, widths, num_classes, dropout=dropout, **filters)
        self.add_features(["head"], self.decoder.width, round(self.strides["stage1"] / neck_scales[0]))

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["logits"], found["head"] = self.decoder(self.neck(stages(found)))  # (B, K, h, w)
        return found

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint for images of another size: the position table is resized, see DeiT."""
        return fitted_encoder(self.backbone, state)
