"""MobileNetV3 encoders from timm with the dilations of segmentation, walked by hand: every map is in reach."""

from typing import Literal

import timm
from torch import Tensor

from ._encoder import DilationRule, Encoder, Stride, set_dilation

MobileNetV3Name = Literal["mobilenetv3_small_100", "mobilenetv3_large_100"]

IMAGENET = {
    "mobilenetv3_small_100": "mobilenetv3_small_100.lamb_in1k",
    "mobilenetv3_large_100": "mobilenetv3_large_100.ra_in1k",
}


class MobileNetV3(Encoder):
    """MobileNetV3-Small or -Large up to the 1x1 convolution before the pooling; state-dict keys are timm's.

    Howard et al., Searching for MobileNetV3, ICCV 2019, arXiv 1905.02244. Where a stride is lost, the depthwise
    convolution that had it keeps the dilation before it under the rule `timm` and has the new one already under
    `cirkd` and `mmseg` (the same here: CIRKD's code and mmsegmentation's convert this network alike). Those two
    also pad the convolutions that keep a stride as TensorFlow does: by the size of the map, the odd pixel at the end;
    timm's published weights were trained with equal padding on both sides.

    Features:
        stage1..stage4: 16, 24, 48, 576 channels (Small) or 24, 40, 112, 960 (Large), at strides 4, 8, then at most
        `output_stride`. The first three end linearly, stage4 with a hard swish: all can be negative.
    """

    dropped = ("conv_head.", "norm_head.", "classifier.")

    def __init__(self, name: MobileNetV3Name, output_stride: Stride, dilation_rule: DilationRule):
        super().__init__()
        padding = "" if dilation_rule == "timm" else "same"
        net = timm.create_model(name, features_only=True, output_stride=output_stride, pad_type=padding)
        self.conv_stem, self.bn1, self.act1, self.blocks = net.conv_stem, net.bn1, net.act1, net.blocks
        self.imagenet = IMAGENET[name]
        self.stage_ends: dict[int, str] = {}  # index in `blocks` -> the stage that ends there
        self.channels, self.strides, self.norms = {}, {}, {}
        for number, info in enumerate(net.feature_info.info[1:], start=1):
            stage, index = f"stage{number}", int(info["module"].removeprefix("blocks."))
            self.stage_ends[index] = stage
            self.channels[stage], self.strides[stage] = info["num_chs"], info["reduction"]
            if stage != "stage4":
                last = self.blocks[index][-1]
                norm = last.bn3 if hasattr(last, "bn3") else last.bn2  # Small's first block does not expand
                self.norms[stage] = (norm.weight, norm.bias)

        if dilation_rule != "timm":
            for group in self.blocks[:-1]:
                dilation = group[-1].conv_dw.dilation[0]
                if dilation > 1:
                    set_dilation(group[0].conv_dw, dilation)

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = {}
        x = self.act1(self.bn1(self.conv_stem(x)))
        for index, group in enumerate(self.blocks):
            x = group(x)
            if index in self.stage_ends:
                found[self.stage_ends[index]] = x
        return found
