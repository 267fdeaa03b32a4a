"""PIDNet: three branches, of details, context and borders, that are joined by gates."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ._dual_resolution import (
    BasicBlock,
    BNReLUConv,
    Bottleneck,
    ConvBN,
    DualResolutionEncoder,
    NormFirstHead,
    context_stages,
    detail_stages,
    enlarge,
    init_convolutions,
)
from ._network import Count, Network
from ._pyramid_pooling import PyramidPooling

Variant = Literal["s", "m", "l"]
# width of the stem; blocks of the stem and of each branch; channels of a level of the pyramid and of the heads
SIZES = {"s": (32, 2, 3, 96, 128), "m": (64, 2, 3, 96, 128), "l": (64, 3, 4, 112, 256)}


class _PixelAttention(nn.Module):
    """The paper's Pag, which lets the details take up context: (1 - g) p + g i, g = sigmoid(<f_p(p), f_i(i)>)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.f_p = ConvBN(channels, width, 1)
        self.f_i = ConvBN(channels, width, 1)

    def forward(self, p: Tensor, i: Tensor) -> Tensor:
        gate = (self.f_p(p) * enlarge(self.f_i(i), p)).sum(1, keepdim=True).sigmoid()  # (B, 1, h, w)
        return (1 - gate) * p + gate * enlarge(i, p)


class _LightFusion(nn.Module):
    """The paper's Light-Bag: f_p((1 - g) i + p) + f_i(i + g p), g = sigmoid(d)."""

    def __init__(self, channels: int):
        super().__init__()
        self.f_p = ConvBN(channels, channels, 1)
        self.f_i = ConvBN(channels, channels, 1)

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        gate = d.sigmoid()
        return self.f_p((1 - gate) * i + p) + self.f_i(i + gate * p)


class _Fusion(nn.Module):
    """The paper's Bag: f(g p + (1 - g) i), g = sigmoid(d)."""

    def __init__(self, channels: int):
        super().__init__()
        self.f = BNReLUConv(channels, channels, 3)

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        gate = d.sigmoid()
        return self.f(gate * p + (1 - gate) * i)


class _PIDNetEncoder(DualResolutionEncoder):
    """The three branches up to their fusion; see PIDNet for the features."""

    needed = (*DualResolutionEncoder.needed, "layers_i.0.", "layers_i.1.", "layers_p.0.", "layers_p.1.")

    def __init__(self, variant: Variant, width: int, stem_bias: bool):
        _, stem_blocks, blocks, pyramid_width, _ = SIZES[variant]
        super().__init__(width, stem_blocks, stem_bias)
        c, is_large = width, variant == "l"
        border = 2 * c if is_large else c
        self.layers_i = context_stages(c, blocks, last=2)
        self.layers_p = detail_stages(c, stem_blocks)
        self.layers_d = nn.ModuleList([
            BasicBlock(2 * c, border),
            BasicBlock(border, 2 * c) if is_large else Bottleneck(border, c),
            Bottleneck(2 * c, 2 * c),
        ])  # fmt: skip
        self.compressions = nn.ModuleList([ConvBN(4 * c, 2 * c, 1), ConvBN(8 * c, 2 * c, 1)])
        self.attentions = nn.ModuleList([_PixelAttention(2 * c, c), _PixelAttention(2 * c, c)])
        self.differences = nn.ModuleList([ConvBN(4 * c, border, 3), ConvBN(8 * c, 2 * c, 3)])
        self.pyramid = PyramidPooling(16 * c, pyramid_width, 4 * c, parallel=not is_large)
        self.fusion = _Fusion(4 * c) if is_large else _LightFusion(4 * c)
        init_convolutions(self)

        self.channels |= {"stage3": 4 * c, "stage4": 8 * c, "stage5": 16 * c, "p3_pre": 2 * c, "p3": 2 * c}
        self.channels |= {"p4_pre": 2 * c, "p4": 2 * c, "p5": 4 * c, "d3": border, "d4_pre": 2 * c, "d4": 2 * c}
        self.channels |= {"d5": 4 * c, "pyramid": 4 * c, "fused": 4 * c}
        deep = {"stage3": 16, "stage4": 32, "stage5": 64, "pyramid": 64}
        self.strides |= {name: deep.get(name, 8) for name in self.channels if name not in self.strides}

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        found = self.first_stages(x)
        stem = found["stage2"]

        i = found["stage3"] = F.relu(self.layers_i[0](stem))
        p = found["p3_pre"] = self.attentions[0](self.layers_p[0](stem), self.compressions[0](i))
        d = self.layers_d[0](stem)
        found["d3"] = F.relu(d + enlarge(self.differences[0](i), d))
        found["p3"] = F.relu(p)

        i = found["stage4"] = F.relu(self.layers_i[1](i))
        p = found["p4_pre"] = self.attentions[1](self.layers_p[1](found["p3"]), self.compressions[1](i))
        d = self.layers_d[1](found["d3"])
        found["d4_pre"] = d + enlarge(self.differences[1](i), d)
        found["p4"], found["d4"] = F.relu(p), F.relu(found["d4_pre"])

        found["p5"], found["d5"] = self.layers_p[2](found["p4"]), self.layers_d[2](found["d4"])
        found["stage5"] = self.layers_i[2](i)
        found["pyramid"] = self.pyramid(found["stage5"])
        found["fused"] = self.fusion(found["p5"], enlarge(found["pyramid"], found["p5"]), found["d5"])
        return found


class PIDNet(Network):
    """logits = head(fused) at stride 8, in training also heads on p3 and, where its map is read, of borders on d4.

    Xu et al., PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers, CVPR 2023,
    arXiv 2206.02066.

    Args:
        variant: S, M (S of twice the width) or L.
        width: channels at stride 4; None: 32 for S, else 64.
        stem_bias: a bias on the first two convolutions, which mmsegmentation has not.
        aux: with the two heads for training: `aux` (the paper's P head) and the feature `boundary` (its D head).
        aux_reads_relu: whether these two read p3 and d4, as in the original, where the next ReLU works in place, or,
            as in mmsegmentation, p3_pre and d4_pre.
        align_corners: how the scores are resized to the image. Inside, maps are resized without it.
        num_classes, backbone_weights: see models/_network.py; the authors' ImageNet file fits.

    Features:
        `stage1`..`stage4` at strides 4, 8, 16, 32, the stem and the branch of context, and `stage5` at 64, which has no
        ReLU; at stride 8 those of details, `p3`, `p4` and, without ReLU, `p5`, and of borders, `d3`, `d4` and, without
        ReLU, `d5`; `p3_pre`, `p4_pre`, `d4_pre`: what the ReLU of p3, p4 and d4 reads; `pyramid`: of stage5's averages;
        `fused`: the three branches; `head`: what the classifier reads; `boundary`: scores of borders, one channel.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        variant: Variant = "s",
        width: Count | None = None,
        stem_bias: bool = True,
        aux: bool = True,
        aux_reads_relu: bool = True,
        align_corners: bool = True,
        backbone_weights: str | None = None,
    ):
        width = width or SIZES[variant][0]
        encoder = _PIDNetEncoder(variant, width, stem_bias)
        super().__init__(num_classes, encoder, False, backbone_weights, align_corners=align_corners)
        head_width = SIZES[variant][-1]
        self.head = NormFirstHead(4 * width, head_width, num_classes)
        self.add_features(("head",), head_width, 8)
        self.has_aux, self.aux_reads_relu = aux, aux_reads_relu
        if aux:
            self.aux_head = NormFirstHead(2 * width, head_width, num_classes)
            self.boundary_head = NormFirstHead(2 * width, width, 1)
            self.add_features(("boundary",), 1, 8)
            self.own_heads = {"aux": "aux_head", "boundary": "boundary_head"}
        for name in ("head", "aux_head", "boundary_head") if aux else ("head",):
            init_convolutions(self.get_submodule(name))

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        found = self.backbone(x, wanted)
        found["head"] = self.head.before_classifier(found["fused"])
        found["logits"] = self.head.classifier(found["head"])  # (B, K, h, w)
        end = "" if self.aux_reads_relu else "_pre"
        if "aux" in wanted:
            found["aux"] = self.aux_head(found[f"p3{end}"])
        if "boundary" in wanted:
            found["boundary"] = self.boundary_head(found[f"d4{end}"])  # (B, 1, h, w)
        return found
