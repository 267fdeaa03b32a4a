"""The critic of SKD's holistic loss, a self-attention GAN discriminator on score maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._gcn import attend


class SpectralConv(nn.Conv2d):
    """A convolution whose weight is divided by an estimate of its largest singular value, W / sigma.

    In training each forward improves the estimate by one power iteration, v = W^T u / |W^T u|, u = W v / |W v|,
    sigma = u . W v; the gradient runs through W alone, u v^T with the newest u and v also for forwards before the last.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self.register_buffer("u", F.normalize(torch.randn(out_channels), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(self.weight[0].numel()), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)  # (out, in kh kw)
        if self.training:
            with torch.no_grad():
                # unseen by autograd, as released: the backward of an earlier forward reads the improved vectors
                self.v.data.copy_(F.normalize(matrix.mT @ self.u, dim=0))
                self.u.data.copy_(F.normalize(matrix @ self.v, dim=0))
        sigma = self.u @ (matrix @ self.v)
        return self._conv_forward(x, self.weight / sigma, self.bias)


class SelfAttention(nn.Module):
    """gamma * softmax_j( q_i . k_j ) v + x over the positions of a map; gamma is learnt and starts at 0.

    Shapes:
        x: (B, C, h, w) -> (B, C, h, w); q and k have C / 8 channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * attend(self.query(x), self.key(x), self.value(x), scale=1.0) + x


class Discriminator(nn.Module):
    """How much a score map looks like the teacher's: one unbounded score per 64x64 window of it, at stride 16.

    Batch norm of the scores; four spectral 4x4 convolutions of stride 2 with LeakyReLU(0.1) to 64, 128, 256 and 512
    channels, self-attention behind the third and the fourth; a 4x4 convolution to one channel.

    Args:
        num_classes: K, channels of the score maps.

    Shapes:
        logits: (B, K, h, w), both sides at least 64 -> (B, 1, h // 16 - 3, w // 16 - 3).
    """

    smallest = 64  # pixels a side: four halvings leave 4, the side of the last window

    def __init__(self, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(num_classes)
        widths = [num_classes, 64, 128, 256, 512]
        self.convs = nn.ModuleList(SpectralConv(a, b, 4, 2, 1) for a, b in zip(widths, widths[1:]))
        self.attentions = nn.ModuleList([SelfAttention(256), SelfAttention(512)])
        self.last = nn.Conv2d(512, 1, 4)

    def forward(self, logits: Tensor) -> Tensor:
        x = self.norm(logits)
        for index, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(x), 0.1)
            if index >= 2:
                x = self.attentions[index - 2](x)
        return self.last(x)
