"""EfficientViT of MIT's Han lab from timm: inverted residuals, and attention that is linear in the number of pixels.

Cai et al., EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction, ICCV 2023,
arXiv 2205.14756.
"""

from typing import Literal

import timm
from timm.models.efficientvit_mit import LiteMLA
from torch import Tensor

from ._encoder import Encoder

EfficientViTName = Literal["efficientvit_b0", "efficientvit_b1"]

IMAGENET = {"efficientvit_b0": "efficientvit_b0.r224_in1k", "efficientvit_b1": "efficientvit_b1.r288_in1k"}
LEAST = 1e-15  # what attention divides by at least


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (k^T v) over its last channel, which is the sum of the weights: v ends in ones.

    As released but for the bound in place of + 1e-15 (timm adds 1e-5), which onnxruntime drops as if it were 0, so that
    pixels without a positive query became NaN.

    Shapes:
        q, k: (B, h, N, d); v: (B, h, N, d + 1); returned: (B, h, N, d).
    """
    weighted = q.float() @ (k.float().transpose(-1, -2) @ v.float())
    return (weighted[..., :-1] / weighted[..., -1:].clamp(min=LEAST)).to(v.dtype)


class EfficientViT(Encoder):
    """EfficientViT-B without its classifier; state-dict keys are timm's. Attention is computed in float32.

    Features:
        stage1..stage4: at strides 4, 8, 16, 32; stage0: the stem's map at stride 2. All can be negative.
    """

    dropped = ("head.",)

    def __init__(self, name: EfficientViTName):
        super().__init__()
        net = timm.create_model(name, num_classes=0)
        self.stem, self.stages = net.stem, net.stages
        self.imagenet = IMAGENET[name]
        widths = [self.stem.in_conv.conv.out_channels, *(info["num_chs"] for info in net.feature_info)]
        self.channels = {f"stage{i}": width for i, width in enumerate(widths)}
        self.strides = {f"stage{i}": 2 ** (i + 1) for i in range(len(widths))}
        for module in self.modules():
            if isinstance(module, LiteMLA):
                module._attn = attend

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = {"stage0": self.stem(x)}
        for i, stage in enumerate(self.stages):
            found[f"stage{i + 1}"] = stage(found[f"stage{i}"])
        return found
