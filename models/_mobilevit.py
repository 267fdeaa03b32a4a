"""MobileViT encoders from timm with the dilations of segmentation, walked by hand: every map is in reach."""

from typing import Literal

import timm
from torch import Tensor, nn

from ._encoder import DilationRule, Encoder, Stride, set_dilation

MobileViTName = Literal["mobilevit_xxs", "mobilevit_xs", "mobilevit_s"]

# output stride -> for the last two stages, the dilations of the depthwise 3x3 and of the transformer block's local 3x3
CIRKD_DILATIONS = {8: ((2, 1), (4, 1)), 16: ((1, 1), (2, 1)), 32: ((1, 1), (1, 1))}


class MobileViT(Encoder):
    """MobileViT-XXS, -XS or -S up to the 1x1 convolution before the pooling; state-dict keys are timm's.

    Mehta and Rastegari, MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer, ICLR 2022,
    arXiv 2110.02178. Attention is between the pixels of equal position in their 2x2 patches; a map of odd size is
    resized to even size for it and back. Under the rule `timm`, a stage that lost its stride dilates the local 3x3 of
    its transformer block; under `cirkd` its depthwise 3x3, and no activation follows the 1x1 after the attention.

    Features:
        stage1..stage4: 24, 48, 64, 320 channels (XXS), 48, 64, 80, 384 (XS) or 64, 96, 128, 640 (S), at strides 4, 8,
        then at most `output_stride`. stage1 ends linearly, the others with SiLU: all can be negative.
    """

    dropped = ("head.",)

    def __init__(self, name: MobileViTName, output_stride: Stride, dilation_rule: DilationRule):
        super().__init__()
        net = timm.create_model(name, num_classes=0, global_pool="", output_stride=output_stride)
        self.stem, self.stages, self.final_conv = net.stem, net.stages, net.final_conv
        self.imagenet = f"{name}.cvnets_in1k"
        levels = {f"stage{number}": info for number, info in enumerate(net.feature_info[1:], start=1)}
        self.channels = {stage: info["num_chs"] for stage, info in levels.items()}
        self.strides = {stage: info["reduction"] for stage, info in levels.items()}
        norm = self.stages[1][-1].conv3_1x1.bn
        self.norms = {"stage1": (norm.weight, norm.bias)}

        if dilation_rule == "cirkd":
            for (bottleneck, transformer), (depthwise, local) in zip(self.stages[3:], CIRKD_DILATIONS[output_stride]):
                set_dilation(bottleneck.conv2_kxk.conv, depthwise)
                set_dilation(transformer.conv_kxk.conv, local)
            for _, transformer in self.stages[2:]:
                transformer.conv_proj.bn.act = nn.Identity()

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = {}
        x = self.stages[0](self.stem(x))
        for number, stage in enumerate(self.stages[1:], start=1):
            x = stage(x)
            found[f"stage{number}"] = x
        found["stage4"] = self.final_conv(x)
        return found
