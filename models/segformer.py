"""SegFormer: a Mix Transformer and a decoder of linear layers."""

from torch import Tensor, nn

from ._heads import add_classifiers, classify
from ._mit import MiT, MiTName
from ._mlp_decoder import Branches, MLPDecoder
from ._network import Count, Network, Positive, Share, stages


class SegFormer(Network):
    """logits = classifier(dropout(decoder(stage1, ..., stage4))) at stride 4.

    Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, NeurIPS 2021,
    arXiv 2105.15203. The defaults are those of the paper's code; the codes that took it over differ in small things,
    which are arguments here.

    Args:
        backbone: the size of the encoder.
        width: channels of the decoder; None: 256 on mit_b0 and mit_b1, else 768.
        branches: what a stage goes through first in the decoder, a linear layer or (mmsegmentation) 1x1 convolution,
            batch norm and ReLU.
        fuse_bias: a bias on the 1x1 that fuses the four stages (CIRKD), though batch norm follows it.
        norm_eps: eps of the layer norms of blocks and stages.
        reduction_eps: eps of the layer norms that follow a convolution. Both are 1e-6 in mmsegmentation and 1e-5 in
            Hugging Face's code.
        align_corners: how the logits are resized to the image. Inside the decoder every code resizes without it.
        pretrained: start the backbone from the authors' ImageNet weights in the Hugging Face hub, whose licence allows
            research only.
        backbone_weights: start it from this local ImageNet file instead (the authors', mmsegmentation's or the hub's).
        num_classes, dropout (of whole channels), drop_path: see models/_network.py.

    Shapes:
        images: 32 x 32 pixels or more. logits: at stride 4.

    Features:
        `stage1`..`stage4` at strides 4, 8, 16, 32, after the stage's layer norm; `decoder`: the decoder's output;
        `head`: what the classifier reads, `decoder` after dropout.

    Raises:
        ValueError: images that are too small.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: MiTName = "mit_b0",
        width: Count | None = None,
        branches: Branches = "linear",
        fuse_bias: bool = False,
        dropout: Share = 0.1,
        drop_path: Share = 0.1,
        norm_eps: Positive = 1e-6,
        reduction_eps: Positive = 1e-5,
        align_corners: bool = False,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        encoder = MiT(backbone, drop_path, norm_eps, reduction_eps)
        super().__init__(num_classes, encoder, pretrained, backbone_weights, align_corners=align_corners)
        width = width or (256 if backbone in ("mit_b0", "mit_b1") else 768)
        self.decoder = MLPDecoder(stages(self.channels), width, branches, fuse_bias)
        self.add_features(("decoder", "head"), width, 4)
        add_classifiers(self, width, None, dropout, "channels", "torch")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["decoder"] = self.decoder(stages(found))
        return classify(self, found["decoder"], found, wanted)
