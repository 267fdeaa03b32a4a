"""MobileNetV2 encoders from timm with the dilations of segmentation, walked by hand: every map is in reach."""

from typing import Literal

import timm
from torch import Tensor, nn

from ._dilation import DilationRule, set_dilation

MobileNetV2Name = Literal["mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075", "mobilenetv2_100"]

IMAGENET = {
    "mobilenetv2_050": "mobilenetv2_050.lamb_in1k",
    "mobilenetv2_100": "mobilenetv2_100.ra_in1k",
}

# (rule, output stride) -> for blocks.3 to blocks.6 (64, 96, 160, 320 channels at width 1), block by block (the last
# entry repeats), the dilation of the depthwise 3x3; mmseg dilates only the first block of each.
MOBILENETV2_DILATIONS = {
    ("timm", 8): ((1, 2), (2, 2), (2, 4), (4, 4)),
    ("timm", 16): ((1, 1), (1, 1), (1, 2), (2, 2)),
    ("mmseg", 8): ((2, 1), (2, 1), (4, 1), (4, 1)),
    ("mmseg", 16): ((1, 1), (1, 1), (2, 1), (2, 1)),
}


class MobileNetV2(nn.Module):
    """MobileNetV2 without its last 1x1 (1280 channels) and classifier; state-dict keys are timm's.

    Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv 1801.04381.
    Batch norm and ReLU6 are one timm module here: synchronise it with timm.layers.convert_sync_batchnorm,
    torch's own converter silently drops the ReLU6.

    Features:
        stage1..stage4: outputs of blocks 1, 2, 4 and 6 (24, 32, 96, 320 channels at width 1), at strides 4, 8, then at
        most `output_stride`. Blocks end linearly, so a map can be negative and there is no stage1_pre and so on.
    """

    dropped = ("conv_head.", "bn2.", "classifier.")
    stage_ends = {1: "stage1", 2: "stage2", 4: "stage3", 6: "stage4"}

    def __init__(self, name: MobileNetV2Name, output_stride: Literal[8, 16], dilation_rule: DilationRule):
        super().__init__()
        net = timm.create_model(name, num_classes=0, global_pool="", output_stride=output_stride)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        self.imagenet = IMAGENET.get(name)
        self.channels = {stage: self.blocks[i][-1].conv_pwl.out_channels for i, stage in self.stage_ends.items()}
        self.strides = dict(zip(self.stage_ends.values(), (4, 8, min(16, output_stride), output_stride)))
        norms = {stage: self.blocks[i][-1].bn3 for i, stage in self.stage_ends.items()}
        self.norms = {stage: (norm.weight, norm.bias) for stage, norm in norms.items()}

        for stage, plan in zip(self.blocks[3:], MOBILENETV2_DILATIONS[dilation_rule, output_stride]):
            for index, block in enumerate(stage):
                set_dilation(block.conv_dw, plan[min(index, len(plan) - 1)])

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = {}
        x = self.bn1(self.conv_stem(x))
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in self.stage_ends:
                found[self.stage_ends[index]] = x
        return found
