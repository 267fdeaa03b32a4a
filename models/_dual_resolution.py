"""What PIDNet and DDRNet are made of: a stem, residual blocks that leave the last ReLU to others, heads, resizing."""

import logging

import torch.nn.functional as F
from torch import Tensor, nn

from ._encoder import Encoder
from ._prediction import resize
from ._state_dicts import shown

logger = logging.getLogger(__name__)


class ConvBN(nn.Module):
    """Convolution and batch norm; padding = (kernel - 1) / 2."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class BNReLUConv(nn.Module):
    """Batch norm, ReLU, convolution; padding = (kernel - 1) / 2."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1):
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.bn(x), inplace=True))


class BasicBlock(nn.Module):
    """Two 3x3 beside a shortcut, which is a 1x1 where stride or channels change; `has_relu`: with a ReLU at the end."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1, has_relu: bool = False):
        super().__init__()
        self.conv1 = ConvBN(in_channels, width, 3, stride)
        self.conv2 = ConvBN(width, width, 3)
        self.downsample = shortcut(in_channels, width, stride)
        self.has_relu = has_relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(F.relu(self.conv1(x), inplace=True)) + self.downsample(x)
        return F.relu(x, inplace=True) if self.has_relu else x


class Bottleneck(nn.Module):
    """1x1, 3x3 and a 1x1 to twice the width beside a shortcut; it never ends with a ReLU."""

    expansion = 2

    def __init__(self, in_channels: int, width: int, stride: int = 1, has_relu: bool = False):
        super().__init__()
        self.conv1 = ConvBN(in_channels, width, 1)
        self.conv2 = ConvBN(width, width, 3, stride)
        self.conv3 = ConvBN(width, 2 * width, 1)
        self.downsample = shortcut(in_channels, 2 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.conv2(F.relu(self.conv1(x), inplace=True)), inplace=True)
        return self.conv3(inner) + self.downsample(x)


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """1x1 and batch norm, or nothing where the sizes agree."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return ConvBN(in_channels, out_channels, 1, stride)


def stack(block: type[nn.Module], in_channels: int, width: int, count: int, stride: int = 1) -> nn.Sequential:
    """Blocks one behind the other, all but the last of which end with a ReLU."""
    channels = [in_channels, *[width * block.expansion] * (count - 1)]
    return nn.Sequential(
        *(block(c, width, stride if i == 0 else 1, has_relu=i < count - 1) for i, c in enumerate(channels))
    )


def context_stages(width: int, blocks: int, last: int) -> nn.ModuleList:
    """Stages 3 to 5 of the branch that goes on, from stride 16 to 64; `last`: bottlenecks of the last one."""
    return nn.ModuleList([
        stack(BasicBlock, 2 * width, 4 * width, blocks, stride=2),
        stack(BasicBlock, 4 * width, 8 * width, blocks, stride=2),
        stack(Bottleneck, 8 * width, 8 * width, last, stride=2),
    ])  # fmt: skip


def detail_stages(width: int, blocks: int) -> nn.ModuleList:
    """Stages 3 to 5 of the branch that keeps stride 8."""
    return nn.ModuleList([
        stack(BasicBlock, 2 * width, 2 * width, blocks),
        stack(BasicBlock, 2 * width, 2 * width, blocks),
        stack(Bottleneck, 2 * width, 2 * width, 1),
    ])  # fmt: skip


class DualResolutionEncoder(Encoder):
    """An encoder whose branches keep stride 8 beside the one that goes on to 64; a subclass has the branches.

    Its stem is two 3x3 of stride 2, then basic blocks at stride 4 (`stage1`, `width` channels) and 8 (`stage2`, twice
    as many).

    Args:
        stem_bias: a bias on the first two convolutions, though batch norm follows them.
    """

    # of the classifier that the files from ImageNet end with
    dropped = ("down5.", "last_layer.", "linear.")
    # what such a file must hold; it may lack what joins the branches and what comes behind them
    needed: tuple[str, ...] = ("stem.", "layer1.", "layer2.")

    def __init__(self, width: int, stem_blocks: int, stem_bias: bool):
        super().__init__()
        self.stem = nn.ModuleList([ConvBN(3, width, 3, 2, stem_bias), ConvBN(width, width, 3, 2, stem_bias)])
        self.layer1 = stack(BasicBlock, width, width, stem_blocks)
        self.layer2 = stack(BasicBlock, width, 2 * width, stem_blocks, stride=2)
        self.channels = {"stage1": width, "stage2": 2 * width}
        self.strides = {"stage1": 4, "stage2": 8}

    def first_stages(self, x: Tensor) -> dict[str, Tensor]:
        """stage1 and stage2 of normalised images."""
        for conv in self.stem:
            x = F.relu(conv(x), inplace=True)
        stage1 = F.relu(self.layer1(x))
        return {"stage1": stage1, "stage2": F.relu(self.layer2(stage1))}

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A file of our names, with the random weights of this encoder for the parts that it may lack."""
        if "stem.0.conv.weight" not in state:
            return dict(state)
        own = self.state_dict()
        absent = [key for key in own if key not in state and not key.startswith(self.needed)]
        if absent:
            logger.warning("no ImageNet weights for %d entries, which start at random: %s", len(absent), shown(absent))
        return state | {key: own[key] for key in absent}


class NormFirstHead(nn.Module):
    """The head of this family: batch norm, ReLU, 3x3, batch norm, ReLU, 1x1 classifier."""

    def __init__(self, in_channels: int, width: int, out_channels: int):
        super().__init__()
        self.conv = BNReLUConv(in_channels, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.classifier = nn.Conv2d(width, out_channels, 1)

    def before_classifier(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, width, h, w)."""
        return F.relu(self.bn(self.conv(x)), inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.before_classifier(x))


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """x at the height and width of another map, as the family resizes inside of its networks."""
    return resize(x, like.shape[-2:], align_corners=False)


def init_convolutions(network: nn.Module) -> None:
    """Kaiming normal (fan out) for every convolution, as both papers' codes start."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
