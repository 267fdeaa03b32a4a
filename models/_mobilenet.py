"""MobileNet encoders from timm with the dilations of segmentation, walked by hand: every map is in reach."""

from typing import Literal

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from ._encoder import STAGES, DilationRule, Encoder, Stride, set_dilation

MobileNetV2Name = Literal["mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075", "mobilenetv2_100"]
MobileNetV3Name = Literal["mobilenetv3_small_100", "mobilenetv3_large_100"]

IMAGENET = {
    "mobilenetv2_050": "mobilenetv2_050.lamb_in1k",
    "mobilenetv2_100": "mobilenetv2_100.ra_in1k",
    "mobilenetv3_small_100": "mobilenetv3_small_100.lamb_in1k",
    "mobilenetv3_large_100": "mobilenetv3_large_100.ra_in1k",
}

# rule -> output stride -> for blocks.3 to blocks.6 (64, 96, 160, 320 channels at width 1), block by block (the last
# entry repeats), the dilation of the depthwise 3x3; mmseg dilates only the first block of each, AICSD a stage as a
# whole. At output stride 32 nothing is dilated.
TIMM = {8: ((1, 2), (2,), (2, 4), (4,)), 16: ((1,), (1,), (1, 2), (2,))}
MOBILENETV2_DILATIONS = {
    "timm": TIMM,
    "cirkd": TIMM,
    "mmseg": {8: ((2, 1), (2, 1), (4, 1), (4, 1)), 16: ((1,), (1,), (2, 1), (2, 1))},
    "aicsd": {8: ((1,), (2,), (2,), (4,)), 16: ((1,), (1,), (1,), (2,))},
}


class MobileNetV2(Encoder):
    """MobileNetV2 without its last 1x1 (1280 channels) and classifier; state-dict keys are timm's.

    Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv 1801.04381.

    Under AICSD's rule each block pads its input, not the input of its depthwise 3x3: at the border that 3x3 reads
    ReLU6 of what the expansion's batch norm makes of 0, instead of 0.

    Features:
        stage1..stage4: outputs of blocks 1, 2, 4 and 6 (24, 32, 96, 320 channels at width 1), at strides 4, 8, then at
        most `output_stride`. Blocks end linearly, so a map can be negative and there is no stage1_pre and so on.
        stage1_expand..stage3_expand: stage1..stage3 behind the 1x1 expansion and its batch norm with which the next
        block begins, before the ReLU6 (144, 192, 576 channels at width 1). In training this batch norm takes the
        statistics of the map itself, on each process, without the padding and without counting them a second time.
    """

    dropped = ("conv_head.", "bn2.", "classifier.")
    stage_ends = {1: "stage1", 2: "stage2", 4: "stage3", 6: "stage4"}
    expansions = {"stage1_expand": 2, "stage2_expand": 3, "stage3_expand": 5}

    def __init__(self, name: MobileNetV2Name, output_stride: Stride, dilation_rule: DilationRule):
        super().__init__()
        net = timm.create_model(name, num_classes=0, global_pool="", output_stride=output_stride)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        self.imagenet = IMAGENET.get(name)
        self.channels = {stage: self.blocks[i][-1].conv_pwl.out_channels for i, stage in self.stage_ends.items()}
        self.strides = dict(zip(self.stage_ends.values(), (4, 8, min(16, output_stride), output_stride)))
        norms = {stage: self.blocks[i][-1].bn3 for i, stage in self.stage_ends.items()}
        for feature, index in self.expansions.items():
            norms[feature] = self.blocks[index][0].bn1
            self.channels[feature] = norms[feature].num_features
            self.strides[feature] = self.strides[feature.removesuffix("_expand")]
        self.norms = {feature: (norm.weight, norm.bias) for feature, norm in norms.items()}

        if output_stride < 32:
            for stage, plan in zip(self.blocks[3:], MOBILENETV2_DILATIONS[dilation_rule][output_stride]):
                for index, block in enumerate(stage):
                    set_dilation(block.conv_dw, plan[min(index, len(plan) - 1)])
        if dilation_rule == "aicsd":
            for stage in self.blocks[1:]:
                for block in stage:
                    # a 1x1 without bias makes 0 of a padded 0
                    block.conv_pw.padding, block.conv_dw.padding = block.conv_dw.padding, (0, 0)

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = stage_maps(self.blocks, self.stage_ends, self.bn1(self.conv_stem(x)))
        for name in self.expansions.keys() & wanted:
            found[name] = expanded(self.blocks[self.expansions[name]][0], found[name.removesuffix("_expand")])
        return found


class MobileNetV3(Encoder):
    """MobileNetV3-Small or -Large up to the 1x1 convolution before the pooling; state-dict keys are timm's.

    Howard et al., Searching for MobileNetV3, ICCV 2019, arXiv 1905.02244. Where a stride is lost, the depthwise
    convolution that had it keeps the dilation before it under the rule `timm` and has the new one already under
    `cirkd` and `mmseg` (the same here: CIRKD's code and mmsegmentation's convert this network alike). Those two
    also pad the convolutions that keep a stride as TensorFlow does: by the size of the map, the odd pixel at the end;
    timm's published weights were trained with equal padding on both sides. `torchvision` dilates like those two and
    pads like timm.

    Features:
        stage1..stage4: 16, 24, 48, 576 channels (Small) or 24, 40, 112, 960 (Large), at strides 4, 8, then at most
        `output_stride`. The first three end linearly, stage4 with a hard swish: all can be negative. stage0: the last
        map at stride 2, 16 channels; stage2_first: what stage2's first block puts out, which torchvision's LR-ASPP
        reads in place of the last's.
    """

    dropped = ("conv_head.", "norm_head.", "classifier.")

    def __init__(
        self, name: MobileNetV3Name, output_stride: Stride, dilation_rule: DilationRule | Literal["torchvision"]
    ):
        super().__init__()
        padding = "same" if dilation_rule in ("cirkd", "mmseg") else ""
        net = timm.create_model(name, features_only=True, output_stride=output_stride, pad_type=padding)
        self.conv_stem, self.bn1, self.act1, self.blocks = net.conv_stem, net.bn1, net.act1, net.blocks
        self.imagenet = IMAGENET[name]
        self.stage_ends: dict[int, str] = {}  # index in `blocks` -> the stage that ends there
        self.channels, self.strides, self.norms = {}, {}, {}
        for number, info in enumerate(net.feature_info.info):
            stage, place = f"stage{number}", info["module"]
            self.channels[stage], self.strides[stage] = info["num_chs"], info["reduction"]
            if place == "bn1":  # Small has no block at stride 2
                norm = self.bn1
            else:
                index = int(place.removeprefix("blocks."))
                self.stage_ends[index] = stage
                last = self.blocks[index][-1]
                norm = last.bn3 if hasattr(last, "bn3") else getattr(last, "bn2", None)  # a first block does not expand
            if stage not in ("stage0", "stage4"):
                self.norms[stage] = (norm.weight, norm.bias)
        for table in (self.channels, self.strides):
            table["stage2_first"] = table["stage2"]

        if dilation_rule != "timm":
            for group in self.blocks[:-1]:
                dilation = group[-1].conv_dw.dilation[0]
                if dilation > 1:
                    set_dilation(group[0].conv_dw, dilation)

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        x = self.act1(self.bn1(self.conv_stem(x)))
        found = {"stage0": x}  # of Small; Large has a block at this stride
        for index, group in enumerate(self.blocks):
            stage = self.stage_ends.get(index)
            for place, block in enumerate(group):
                x = block(x)
                if (stage, place) == ("stage2", 0):
                    found["stage2_first"] = x
            if stage is not None:
                found[stage] = x
        return {name: value for name, value in found.items() if name in STAGES or name in wanted}


def stage_maps(blocks: nn.Sequential, ends: dict[int, str], x: Tensor) -> dict[str, Tensor]:
    """The outputs of those groups of blocks with which a stage ends: index -> name of the stage."""
    found = {}
    for index, group in enumerate(blocks):
        x = group(x)
        if index in ends:
            found[ends[index]] = x
    return found


def expanded(block: nn.Module, x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 6 C, h, w): an inverted residual's expansion and batch norm, before the ReLU6."""
    norm = block.bn1
    known = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    x = F.conv2d(x, block.conv_pw.weight)
    return F.batch_norm(x, *known, norm.weight, norm.bias, training=norm.training, eps=norm.eps)
