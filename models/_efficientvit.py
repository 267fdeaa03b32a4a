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
EPS = 1e-15  # added to what attention divides by; timm's is 1e-5


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
                module.eps = EPS

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = {"stage0": self.stem(x)}
        for i, stage in enumerate(self.stages):
            found[f"stage{i + 1}"] = stage(found[f"stage{i}"])
        return found
