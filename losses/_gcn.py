"""CIRKD's adapters for the student's feature: a self-attention block, and the head in front of the memories."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GCN(nn.Module):
    """Self-attention over the positions of a map, joined with it by a convolution: CIRKDv2's contextual modelling.

        q, k, v = W_q x, W_k x, W_v x,    A = softmax( q k^T / sqrt(C / 2) ) over the keys
        y = relu(BN( W_1 A v )),    out = relu(BN( W_2 [x, y] ))

    All W are 1x1 convolutions without bias. The attention is a fused kernel, so N x N values are never kept.

    Args:
        channels: C, at least 2.

    Shapes:
        features: (B, C, h, w) -> (B, C, h, w).
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, inner, 1, bias=False)
        self.context, self.output = (
            nn.Sequential(nn.Conv2d(given, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
            for given in (inner, 2 * channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        seen = attend(self.query(features), self.key(features), self.value(features))  # (B, C / 2, h, w)
        return self.output(torch.cat([features, self.context(seen)], 1))


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q k^T * scale) v over positions, a fused kernel.

    Args:
        scale: 1 / sqrt(D) when left out.

    Shapes:
        query, key: (B, D, h, w), value: (B, C, h, w) -> (B, C, h, w).
    """
    rows = (x.flatten(2).mT[:, None] for x in (query, key, value))  # (B, 1, N, D or C)
    seen = F.scaled_dot_product_attention(*rows, scale=scale)  # (B, 1, N, C)
    return seen[:, 0].mT.unflatten(2, value.shape[-2:])


def projection_head(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """1x1 convolution to the teacher's width, batch norm, ReLU, 1x1 convolution, without biases."""
    return nn.Sequential(
        nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
        nn.BatchNorm2d(teacher_channels),
        nn.ReLU(),
        nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
    )
