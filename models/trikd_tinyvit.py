"""TriKD's student: TinyViT with a UPer decoder of frequency attention."""

from typing import Literal

import torch
from torch import Tensor, nn

from ._frequency import Center, CutoffUnit
from ._network import Count, Network, Positive, Share, stages
from ._tinyvit import TinyViT
from ._tokens import fitted_encoder
from ._trikd_decoder import TriKDDecoder, Widths

# widths of the decoder's levels; 5m is not of TriKD
WIDTHS = {"5m": (48, 96, 128, 256), "11m": (48, 96, 192, 320), "21m": (48, 96, 192, 320)}
# windows at the published crop of 512
WINDOWS = {"5m": (7, 14, 7), "11m": (7, 14, 7), "21m": (16, 32, 16)}


class TriKDTinyViT(Network):
    """logits = TriKDDecoder(stage1..stage4) of a TinyViT whose last block attends over the whole grid.

    Li et al., IEEE TMM 28, 2026, arXiv 2309.12557 (its hybrid view, the one that is deployed). Images of any size.

    Args:
        variant: 11m or 21m, as published; 5m is ours.
        windows: sides of the attention windows of stage2, stage3, stage4, in tokens; None: as published for images of
            512 x 512, 16, 32, 16 for 21m (7, 14, 7 at 224 there) and 7, 14, 7 for the others.
        widths: channels of the decoder's four levels; None: 48, 96, 192, 320 (5m: 48, 96, 128, 256).
        drop_path: see models/_network.py; None: 0.1, for 21m with windows of 7 0.2, for 5m 0.
        distill_heads: with the released code's two 1x1 convolutions between features and distillation losses. They
            take part in nothing else, and are frozen without such a loss. The losses' own projections (fitnet,
            attention_kl: `affine`) do the same work without them.
        backbone_weights: start it from this local file (TinyViT's or timm's keys) instead. Position biases of other
            windows are resized.
        num_classes, dropout (of whole channels), cutoff, cutoff_unit, center, pretrained: see models/_network.py.

    Features:
        those of the encoder (models/_tinyvit.py); `head`: what the classifier reads. With distill_heads `attention` has
        12 heads, a linear map of the encoder's, and `low` has 256 channels, one of stage1.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        variant: Literal["5m", "11m", "21m"] = "11m",
        windows: tuple[Count, Count, Count] | None = None,
        widths: Widths | None = None,
        drop_path: Share | None = None,
        dropout: Share = 0.1,
        distill_heads: bool = False,
        cutoff: Positive = 10.0,
        cutoff_unit: CutoffUnit = "cycles_per_map",
        center: Center = "released",
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        windows = tuple(windows or WINDOWS[variant])
        if drop_path is None:
            drop_path = {"5m": 0.0, "11m": 0.1, "21m": 0.2 if windows == (7, 14, 7) else 0.1}[variant]
        encoder = TinyViT(variant, windows, drop_path)
        super().__init__(num_classes, encoder, pretrained, backbone_weights, align_corners=True)
        widths = widths or WIDTHS[variant]
        filters = {"cutoff": cutoff, "cutoff_unit": cutoff_unit, "center": center}
        self.decoder = TriKDDecoder(stages(self.channels), widths, num_classes, dropout=dropout, **filters)
        self.add_features(["head"], self.decoder.width, self.strides["stage1"])
        self.low_head = self.high_head = None
        if distill_heads:
            # to the 256 channels and 12 heads of the two networks they are compared with
            self.low_head = nn.Conv2d(self.channels["stage1"], 256, 1)
            self.high_head = nn.Conv2d(self.channels["attention"], 12, 1)
            self.add_features(["attention"], 12, self.strides["attention"])
            self.add_features(["low"], 256, self.strides["stage1"])
            self.own_heads = {"attention": "high_head", "low": "low_head"}

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["logits"], found["head"] = self.decoder(stages(found))  # (B, K, h, w)
        if self.low_head is not None and "low" in wanted:
            found["low"] = self.low_head(found["stage1"])  # (B, 256, h, w)
        if self.high_head is not None and "attention" in wanted:
            with torch.autocast(x.device.type, enabled=False):  # scores stay as exact as they are
                found["attention"] = self.high_head(found["attention"])  # (B, heads, N, N) -> (B, 12, N, N)
        return found

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint for other windows, its position biases resized; heads this network does without are left out."""
        unread = () if self.low_head is not None else ("low_head.", "high_head.")
        state = {key: value for key, value in state.items() if not key.startswith(unread)}
        return fitted_encoder(self.backbone, state)
