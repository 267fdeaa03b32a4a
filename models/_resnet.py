"""ResNet encoders from timm with the stems and dilations of segmentation, walked by hand: every map is in reach."""

from typing import Literal

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from ._encoder import DilationRule, Encoder, Stride, set_dilation

ResNetName = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
Stem = Literal["plain", "v1c", "v1s"]

# plain: one 7x7; v1c: three 3x3 of 32, 32, 64 channels; v1s: of 64, 64, 128
STEMS = {
    "plain": {},
    "v1c": {"stem_type": "deep", "stem_width": 32},
    "v1s": {"stem_type": "deep", "stem_width": 64},
}

# the weights the papers started from (torchvision's first generation), and timm's where those are the only ones
IMAGENET = {
    ("resnet18", "plain"): "resnet18.tv_in1k",
    ("resnet34", "plain"): "resnet34.tv_in1k",
    ("resnet50", "plain"): "resnet50.tv_in1k",
    ("resnet50", "v1c"): "resnet50c.gluon_in1k",
    ("resnet50", "v1s"): "resnet50s.gluon_in1k",
    ("resnet101", "plain"): "resnet101.tv_in1k",
    ("resnet101", "v1c"): "resnet101c.gluon_in1k",
    ("resnet101", "v1s"): "resnet101s.gluon_in1k",
}

# kind of block -> rule -> output stride -> for layer3 and layer4, block by block (the last entry repeats), the
# dilations of the block's 3x3: two in a basic block, one in a bottleneck. Under timm's rule the first block of a stage
# that lost its stride keeps the dilation of the stage before; mmseg never dilates a basic block's second 3x3; AICSD
# dilates a stage as a whole and makes the bottlenecks' layer4 a grid of once, twice and four times its dilation. At
# output stride 32 nothing is dilated.
TIMM_BASIC = {8: (((1, 2), (2, 2)), ((2, 4), (4, 4))), 16: (((1, 1),), ((1, 2), (2, 2)))}
TIMM_BOTTLENECK = {8: (((1,), (2,)), ((2,), (4,))), 16: (((1,),), ((1,), (2,)))}
RESNET_DILATIONS = {
    "basic": {
        "timm": TIMM_BASIC,
        "cirkd": TIMM_BASIC,
        "mmseg": {8: (((1, 1), (2, 1)), ((2, 1), (4, 1))), 16: (((1, 1),), ((1, 1), (2, 1)))},
        "aicsd": {8: (((2, 2),), ((4, 4),)), 16: (((1, 1),), ((2, 2),))},
    },
    "bottleneck": {
        "timm": TIMM_BOTTLENECK,
        "cirkd": TIMM_BOTTLENECK,
        "mmseg": TIMM_BOTTLENECK,
        "aicsd": {8: (((2,),), ((4,), (8,), (16,))), 16: (((1,),), ((2,), (4,), (8,)))},
    },
}


class ResNet(Encoder):
    """ResNet-18 to ResNet-101 without the classifier; state-dict keys are timm's.

    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385. Without published weights:
    Kaiming normal (fan out), every batch norm scale 1 (timm's own default would start each block's last one at 0).

    Features:
        stage1..stage4: layer1..layer4 after the last ReLU, at strides 4, 8, then at most `output_stride`.
        stage1_pre..stage4_pre: the same sums before that ReLU.
    """

    dropped = ("fc.",)

    def __init__(self, name: ResNetName, output_stride: Stride, stem: Stem, dilation_rule: DilationRule):
        super().__init__()
        net = timm.create_model(
            name, num_classes=0, global_pool="", output_stride=output_stride, zero_init_last=False, **STEMS[stem]
        )
        self.conv1, self.bn1, self.act1, self.maxpool = net.conv1, net.bn1, net.act1, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.imagenet = IMAGENET.get((name, stem))
        self.channels, self.strides, self.norms = {}, {}, {}
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        for number, (layer, info) in enumerate(zip(layers, net.feature_info[1:], strict=True), start=1):
            for feature in (f"stage{number}", f"stage{number}_pre"):
                self.channels[feature] = info["num_chs"]
                self.strides[feature] = info["reduction"]
            # forward applies the last ReLU of each stage itself, to have the sum before it
            last = "3" if hasattr(layer[-1], "bn3") else "2"
            setattr(layer[-1], f"act{last}", nn.Identity())
            norm = getattr(layer[-1], f"bn{last}")
            self.norms[f"stage{number}_pre"] = (norm.weight, norm.bias)

        if output_stride < 32:
            kind = "bottleneck" if hasattr(self.layer1[0], "bn3") else "basic"
            plans = RESNET_DILATIONS[kind][dilation_rule][output_stride]
            for layer, plan in zip((self.layer3, self.layer4), plans):
                for index, block in enumerate(layer):
                    convs = [conv for conv in (block.conv1, block.conv2) if conv.kernel_size == (3, 3)]
                    for conv, dilation in zip(convs, plan[min(index, len(plan) - 1)]):
                        set_dilation(conv, dilation)

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = {}
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        for number, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            x = layer(x)
            keep_sum = f"stage{number}_pre" in wanted
            if keep_sum:
                found[f"stage{number}_pre"] = x
            x = F.relu(x, inplace=not keep_sum)
            found[f"stage{number}"] = x
        return found
