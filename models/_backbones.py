"""Image encoders from timm with the strides and dilations of segmentation, walked by hand: every map is in reach.

A backbone is called as `backbone(x, wanted)` with x (B, 3, H, W) normalised, and returns name -> map for stage1..stage4
and for those of its other names that are in `wanted`. Its `channels` and `strides` list all names; `norms` tells the
batch norms behind some. `imagenet` is the timm name of its published weights (None: there are none), `dropped` the key
prefixes of such a file it has no use for.
"""

from typing import Literal, get_args

import timm
import torch.nn.functional as F
from torch import Tensor, nn

ResNetName = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
MobileNetV2Name = Literal["mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075", "mobilenetv2_100"]
BackboneName = Literal[ResNetName, MobileNetV2Name]
Stem = Literal["plain", "v1c", "v1s"]
DilationRule = Literal["timm", "mmseg"]

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
    ("mobilenetv2_050", "plain"): "mobilenetv2_050.lamb_in1k",
    ("mobilenetv2_100", "plain"): "mobilenetv2_100.ra_in1k",
}

# (rule, output stride) -> for layer3 and layer4, block by block (the last entry repeats), the dilations of the block's
# 3x3 convolutions: a basic block reads both numbers, a bottleneck the first. Under both rules the first block of a
# stage that lost its stride keeps the dilation of the stage before; mmseg never dilates a basic block's second 3x3.
RESNET_DILATIONS = {
    ("timm", 8): (((1, 2), (2, 2)), ((2, 4), (4, 4))),
    ("timm", 16): (((1, 1), (1, 1)), ((1, 2), (2, 2))),
    ("mmseg", 8): (((1, 1), (2, 1)), ((2, 1), (4, 1))),
    ("mmseg", 16): (((1, 1), (1, 1)), ((1, 1), (2, 1))),
}

# (rule, output stride) -> for blocks.3 to blocks.6 (64, 96, 160, 320 channels at width 1), block by block (the last
# entry repeats), the dilation of the depthwise 3x3; mmseg dilates only the first block of each.
MOBILENETV2_DILATIONS = {
    ("timm", 8): ((1, 2), (2, 2), (2, 4), (4, 4)),
    ("timm", 16): ((1, 1), (1, 1), (1, 2), (2, 2)),
    ("mmseg", 8): ((2, 1), (2, 1), (4, 1), (4, 1)),
    ("mmseg", 16): ((1, 1), (1, 1), (2, 1), (2, 1)),
}


def set_dilation(conv: nn.Conv2d, dilation: int) -> None:
    """Dilates a 3x3 convolution in place, its padding with it, so that the size stays."""
    assert conv.kernel_size == (3, 3), conv
    conv.dilation = conv.padding = (dilation, dilation)


class ResNet(nn.Module):
    """ResNet-18 to ResNet-101 without the classifier; state-dict keys are timm's.

    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385. Without published weights:
    Kaiming normal (fan out), every batch norm scale 1 (timm's own default would start each block's last one at 0).

    Features:
        stage1..stage4: layer1..layer4 after the last ReLU, at strides 4, 8, then at most `output_stride`.
        stage1_pre..stage4_pre: the same sums before that ReLU.
    """

    dropped = ("fc.",)

    def __init__(self, name: ResNetName, output_stride: Literal[8, 16], stem: Stem, dilation_rule: DilationRule):
        super().__init__()
        net = timm.create_model(
            name, num_classes=0, global_pool="", output_stride=output_stride, zero_init_last=False, **STEMS[stem]
        )
        self.conv1, self.bn1, self.act1, self.maxpool = net.conv1, net.bn1, net.act1, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.imagenet = IMAGENET.get((name, stem))
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        for number, info in enumerate(net.feature_info[1:], start=1):
            for feature in (f"stage{number}", f"stage{number}_pre"):
                self.channels[feature] = info["num_chs"]
                self.strides[feature] = info["reduction"]

        for layer, plan in zip((self.layer3, self.layer4), RESNET_DILATIONS[dilation_rule, output_stride]):
            for index, block in enumerate(layer):
                convs = [conv for conv in (block.conv1, block.conv2) if conv.kernel_size == (3, 3)]
                for conv, dilation in zip(convs, plan[min(index, len(plan) - 1)]):
                    set_dilation(conv, dilation)
        # forward applies the last ReLU of each stage itself, to have the sum before it
        self.norms: dict[str, tuple[Tensor, Tensor]] = {}
        for number, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            last = "3" if hasattr(layer[-1], "bn3") else "2"
            setattr(layer[-1], f"act{last}", nn.Identity())
            norm = getattr(layer[-1], f"bn{last}")
            self.norms[f"stage{number}_pre"] = (norm.weight, norm.bias)

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
        self.imagenet = IMAGENET.get((name, "plain"))
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


def build_backbone(
    name: BackboneName, output_stride: Literal[8, 16], stem: Stem = "plain", dilation_rule: DilationRule = "timm"
) -> nn.Module:
    """A backbone with random weights.

    Args:
        name: see BackboneName.
        output_stride: pixels of the image per pixel of stage4; what lacks to 32 becomes dilation.
        stem: see STEMS; MobileNetV2 has the plain one only.
        dilation_rule: which convolutions are dilated, timm's rule (also CIRKD's and torchvision's) or mmsegmentation's.

    Raises:
        ValueError: an unknown name, stride, stem or rule.
    """
    if output_stride not in (8, 16):
        raise ValueError(f"output_stride must be 8 or 16, got {output_stride!r}")
    if stem not in get_args(Stem):
        raise ValueError(f"stem must be one of {', '.join(get_args(Stem))}, got {stem!r}")
    if dilation_rule not in get_args(DilationRule):
        raise ValueError(f"dilation_rule must be one of {', '.join(get_args(DilationRule))}, got {dilation_rule!r}")
    if name in get_args(ResNetName):
        return ResNet(name, output_stride, stem, dilation_rule)
    if name in get_args(MobileNetV2Name):
        if stem != "plain":
            raise ValueError(f"backbone {name} has the plain stem only, got stem {stem!r}")
        return MobileNetV2(name, output_stride, dilation_rule)
    raise ValueError(f"no backbone {name!r}; there are: {', '.join(get_args(BackboneName))}")


def head_width(name: BackboneName) -> int:
    """The width heads have on this backbone unless told otherwise: 512 on the bottleneck ResNets, else 128."""
    return 512 if name in ("resnet50", "resnet101") else 128
