"""TriKD's transformer view: DeiT, a neck that makes a pyramid of its blocks, and a UPer decoder."""

from typing import Literal

from torch import Tensor, nn

from ._deit import DeiT
from ._frequency import Center, CutoffUnit
from ._prediction import Normalize, Prediction, pick_features, refuse_prompt
from ._tokens import fitted_encoder
from ._uper import MultiScaleNeck, UperDecoder
from ._weights import load_backbone


class TriKDDeiT(nn.Module):
    """logits = UperDecoder(neck(stage1..stage4)) of a plain vision transformer.

    Li et al., Triple-View Knowledge Distillation for Semi-Supervised Semantic Segmentation, IEEE TMM 28, 2026,
    arXiv 2309.12557 (its ViT view). Images of any size.

    Args:
        num_classes: K.
        variant: base, as published; small and tiny are ours.
        image_size: (height, width) in pixels that the position table is made for: the crop of the training. Images of
            another size read the table resized.
        neck_scales: factors between the grid of patches and the decoder's four levels, shallow to deep. The released
            code's give the deepest blocks the largest maps; (4, 2, 1, 0.5) is the pyramid the right way up, logits at
            stride 4 and 43 % of the decoder's work.
        neck_width: channels of the decoder's inputs.
        widths: channels of the decoder's four levels.
        drop_path: rate at which the last block's residual parts are dropped, rising linearly from 0 at the first.
        dropout: share of whole channels dropped right before the classifier.
        cutoff, cutoff_unit, center: of the decoder's band filters, see BandFilter.
        pretrained: start the backbone from ImageNet weights that timm has or downloads.
        backbone_weights: start it from this local file (DeiT's keys) instead. The position table is resized.

    Shapes:
        images: (B, 3, H, W) uint8 RGB. logits: (B, K, h, w), h = floor(neck_scales[0] * ceil(H / 16)).

    Features (a prediction holds those named in the attribute `features_wanted`, at first none):
        stage1..stage4: blocks 2, 5, 8, 11 at stride 16; `head`: what the classifier reads; `attention`: scores of the
        last block before their softmax, (B, A, N, N) for the N = ceil(H / 16) ceil(W / 16) tokens.

    Raises:
        ValueError: an impossible argument, unfitting weights, a wanted feature there is none of, a prompt,
            or a batch of 1 in training. FileNotFoundError: no such weights.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        variant: Literal["tiny", "small", "base"] = "base",
        image_size: tuple[int, int] = (512, 512),
        neck_scales: tuple[float, float, float, float] = (0.5, 1.0, 2.0, 4.0),
        neck_width: int = 448,
        widths: tuple[int, int, int, int] = (48, 96, 192, 256),
        drop_path: float = 0.0,
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
        self.backbone = DeiT(variant, tuple(image_size), drop_path)
        self.norms: dict[str, tuple[Tensor, Tensor]] = {}
        self.neck = MultiScaleNeck(self.backbone.channels["stage4"], neck_width, tuple(neck_scales))
        filters = {"cutoff": cutoff, "cutoff_unit": cutoff_unit, "center": center}
        self.decoder = UperDecoder((neck_width,) * 4, tuple(widths), num_classes, dropout=dropout, **filters)
        self.channels: dict[str, int] = self.backbone.channels | {"head": self.decoder.cls_seg[1].in_channels}
        self.strides: dict[str, int] = self.backbone.strides | {
            "head": round(self.backbone.strides["stage1"] / neck_scales[0])
        }
        load_backbone(self.backbone, pretrained, backbone_weights)

    def forward(self, images: Tensor, prompt: Tensor | None = None) -> Prediction:
        refuse_prompt(self, prompt)
        found = self.backbone(self.normalize(images), self.features_wanted)
        levels = self.neck([found[f"stage{n}"] for n in (1, 2, 3, 4)])
        logits, found["head"] = self.decoder(levels)  # (B, K, h, w)
        return Prediction(logits, self.align_corners, None, pick_features(found, self.features_wanted, self))

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint for images of another size: the position table is resized, see DeiT."""
        return fitted_encoder(self.backbone, state)
