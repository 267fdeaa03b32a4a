"""SegFormer: a Mix Transformer and a decoder of linear layers."""

from torch import Tensor, nn

from ._mit import MiT, MiTName
from ._mlp_decoder import Branches, MLPDecoder
from ._prediction import Normalize, Prediction, pick_features, refuse_prompt
from ._weights import load_backbone


class SegFormer(nn.Module):
    """logits = classifier(dropout(decoder(stage1, ..., stage4))) at stride 4.

    Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, NeurIPS 2021,
    arXiv 2105.15203. The defaults are those of the paper's code; the codes that took it over differ in small things,
    which are arguments here.

    Args:
        num_classes: K.
        backbone: the size of the encoder.
        width: channels of the decoder; None: 256 on mit_b0 and mit_b1, else 768.
        branches: what a stage goes through first in the decoder, a linear layer or (mmsegmentation) 1x1 convolution,
            batch norm and ReLU.
        fuse_bias: a bias on the 1x1 that fuses the four stages (CIRKD), though batch norm follows it.
        dropout: share of whole channels dropped right before the classifier.
        drop_path: probability of dropping the last block's summands of an image in training, 0 at the first block.
        norm_eps: eps of the layer norms of blocks and stages.
        reduction_eps: eps of the layer norms that follow a convolution. Both are 1e-6 in mmsegmentation and 1e-5 in
            Hugging Face's code.
        align_corners: how the logits are resized to the image. Inside the decoder every code resizes without it.
        pretrained: start the backbone from the authors' ImageNet weights in the Hugging Face hub, whose licence allows
            research only.
        backbone_weights: start it from this local ImageNet file instead (the authors', mmsegmentation's or the hub's).

    Shapes:
        images: (B, 3, H, W) uint8 RGB, 32 x 32 or more. logits: (B, K, ceil(H / 4), ceil(W / 4)).

    Features (a prediction holds those named in the attribute `features_wanted`, at first none):
        `stage1`..`stage4` at strides 4, 8, 16, 32, after the stage's layer norm; `decoder`: the decoder's output;
        `head`: what the classifier reads, `decoder` after dropout.

    Raises:
        ValueError: an impossible argument, unfitting weights, a wanted feature there is none of, a prompt, or images
            that are too small. FileNotFoundError: no such weights.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: MiTName = "mit_b0",
        width: int | None = None,
        branches: Branches = "linear",
        fuse_bias: bool = False,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        norm_eps: float = 1e-6,
        reduction_eps: float = 1e-5,
        align_corners: bool = False,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        super().__init__()
        width = width or (256 if backbone in ("mit_b0", "mit_b1") else 768)
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.features_wanted: set[str] = set()
        self.aux_wanted = False
        self.aux_head = None
        self.normalize = Normalize.named("imagenet")
        self.backbone = MiT(backbone, drop_path, norm_eps, reduction_eps)
        self.norms = self.backbone.norms
        self.channels: dict[str, int] = self.backbone.channels | {"decoder": width, "head": width}
        self.strides: dict[str, int] = self.backbone.strides | {"decoder": 4, "head": 4}

        self.decoder = MLPDecoder(tuple(self.backbone.channels.values()), width, branches, fuse_bias)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        load_backbone(self.backbone, pretrained, backbone_weights)

    def forward(self, images: Tensor, prompt: Tensor | None = None) -> Prediction:
        refuse_prompt(self, prompt)
        found = self.backbone(self.normalize(images), self.features_wanted)
        found["decoder"] = self.decoder([found[f"stage{i}"] for i in (1, 2, 3, 4)])
        found["head"] = self.dropout(found["decoder"])
        logits = self.classifier(found["head"])  # (B, K, h, w)
        return Prediction(logits, self.align_corners, None, pick_features(found, self.features_wanted, self))
