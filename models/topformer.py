"""TopFormer: a pyramid of levels, and a transformer on tokens pooled from all of them, which then weigh the levels."""

import torch.nn.functional as F
from torch import Tensor, nn

from ._heads import ConvBNReLU, add_classifiers, classify
from ._network import Network, Share
from ._prediction import resize
from ._token_pyramid import TokenPyramid, TopFormerName

WIDTHS = {"topformer_t": 128, "topformer_b": 256}  # of what the levels become
INJECTED = {"inject8": "stage2", "inject16": "stage3", "inject32": "stage4"}  # feature -> the level it is made of


class _Injection(nn.Module):
    """local(level) * up(hard sigmoid(weigh(tokens))) + up(add(tokens)), each a 1x1 convolution with batch norm."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.local, self.add, self.weigh = (ConvBNReLU(channels, width, 1) for _ in range(3))

    def forward(self, level: Tensor, tokens: Tensor) -> Tensor:
        size, local = level.shape[-2:], self.local.before_relu(level)
        weights = resize(F.hardsigmoid(self.weigh.before_relu(tokens)), size, align_corners=False)
        return local * weights + resize(self.add.before_relu(tokens), size, align_corners=False)


class TopFormer(Network):
    """logits = classifier(dropout(fuse(inject8 + up(inject16) + up(inject32)))) at stride 8.

    Zhang et al., TopFormer: Token Pyramid Transformer for Mobile Semantic Segmentation, CVPR 2022, arXiv 2204.05525.

    Args:
        backbone: the size of the network.
        depthwise_fuse: the fusing 1x1 reads each channel alone, as in the small network released for ADE20K.
        backbone_weights: start the pyramid and its transformer from this local ImageNet file, the authors'.
        num_classes, dropout (of whole channels), drop_path, align_corners: see models/_network.py.

    Features:
        `stage1`..`stage4`: the levels at strides 4, 8, 16, 32; `pooled`: all of them side by side, averaged to stride
        64; `tokens`: after the transformer; `inject8`, `inject16`, `inject32`: levels weighed by tokens; `fused`: the
        fusing 1x1's output; `head`: what the classifier reads, both at stride 8.
    """

    backbone_prefixes = ("backbone.", "injections.")

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: TopFormerName = "topformer_t",
        depthwise_fuse: bool = False,
        dropout: Share = 0.1,
        drop_path: Share = 0.1,
        align_corners: bool = False,
        backbone_weights: str | None = None,
    ):
        encoder, width = TokenPyramid(backbone, drop_path), WIDTHS[backbone]
        super().__init__(num_classes, encoder, False, backbone_weights, align_corners=align_corners)
        for name, level in INJECTED.items():
            self.add_features((name,), width, self.strides[level])
        self.injections = nn.ModuleDict({level: _Injection(self.channels[level], width) for level in INJECTED.values()})
        self.fuse = ConvBNReLU(width, width, 1, groups=width if depthwise_fuse else 1)
        self.add_features(("fused", "head"), width, 8)
        add_classifiers(self, width, None, dropout, "channels", "kaiming")

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        tokens = found["tokens"].split([self.channels[f"stage{i}"] for i in (1, 2, 3, 4)], dim=1)
        for i, (name, level) in enumerate(INJECTED.items(), start=1):
            found[name] = self.injections[level](found[level], tokens[i])
        size = found["inject8"].shape[-2:]
        rest = [resize(found[name], size, self.align_corners) for name in ("inject16", "inject32")]
        found["fused"] = self.fuse(found["inject8"] + rest[0] + rest[1])
        return classify(self, found["fused"], found, wanted)
