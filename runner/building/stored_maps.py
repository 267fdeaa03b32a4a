"""How a network's maps are written as bytes, and what becomes of them: all values, or the largest classes' scores.

All tensors of bytes are in channels_last order, in which networks give their maps and losses read them fastest.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = torch.finfo(torch.float16).max  # 65504
STEP = 20  # bytes per unit of a log probability: 0.05 each, down to -12.75


class Full:
    """All values of a map.

    In 16 bits: float16, rounded to nearest. In 8 bits, for each channel of each view: with lo and hi its extremes,

        q = round((x - lo) / s), s = (hi - lo) / 255;    x' = lo + s q,

    lo and s in float32, so that x' is at most s / 2 from x.

    Args:
        shape: (C, h, w).

    Shapes:
        maps: (1, C, h, w) any float type -> (size,) uint8 on the CPU -> (B, C, h, w) float32 on the rows' device.

    Raises:
        ValueError: values that are not finite or, in 16 bits, beyond 65504.
    """

    def __init__(self, shape: tuple[int, int, int], bits: Literal[8, 16]):
        self.shape, self.bits = shape, bits
        channels, height, width = shape
        self.size = channels * height * width * 2 if bits == 16 else channels * (8 + height * width)
        self.name = f"{_sides(shape)}-full{bits}"
        self.words = f"{_sides(shape)} in {bits} bits"

    def write(self, maps: Tensor) -> Tensor:
        """One view's map as bytes."""
        x = maps[0].float().permute(1, 2, 0)  # (h, w, C)
        bound = LARGEST if self.bits == 16 else torch.finfo(torch.float32).max / 4
        reach = x.abs().amax()
        if not reach <= bound:  # NaN too
            raise ValueError(
                f"values reach {reach.item():.3g}, beyond what {self.bits} bits can keep"
                + ("; bits: 8 keeps larger ones" if self.bits == 16 else "")
            )
        if self.bits == 16:
            return x.half().contiguous().cpu().view(torch.uint8).flatten()
        low, high = x.amin((0, 1)), x.amax((0, 1))  # (C,)
        step = (high - low) / 255
        q = ((x - low) / torch.where(step > 0, step, 1)).round().clamp(0, 255).to(torch.uint8)
        scale = torch.stack([low, step]).cpu().view(torch.uint8).flatten()
        return torch.cat([scale, q.cpu().flatten()])

    def read(self, rows: Tensor) -> Tensor:
        """The maps that (B, size) bytes stand for."""
        channels, height, width = self.shape
        shape = len(rows), height, width, channels
        if self.bits == 16:
            return rows.view(torch.float16).view(shape).float().permute(0, 3, 1, 2)
        low, step = _cut(rows, 0, 8 * channels).view(torch.float32).view(-1, 2, 1, 1, channels).unbind(1)
        q = rows[:, 8 * channels :].reshape(shape)
        return torch.addcmul(low, step, q.float()).permute(0, 3, 1, 2)


class Largest:
    """The k largest classes of each pixel with their log probabilities, and the log of the mass of the K - k others.

        log p' = log_softmax(v),    v_c = log p_c for the k classes, log(rest / (K - k)) for each of the others,

    so the rest's mass is spread evenly over the others; the normalisation takes up the rounding. What is read are log
    probabilities: a loss that takes a softmax of scores, at any temperature, sees what it would of scores; one that
    reads scores as they are sees them shifted at each pixel.
    In 16 bits the logs are float16. In 8 bits they are q = round(-20 log p), at most 255: steps of 0.05 down to -12.75.

    Args:
        shape: (K, h, w). k: fewer than K.

    Shapes:
        scores: (1, K, h, w) -> (size,) uint8 on the CPU -> (B, K, h, w) float32 on the rows' device.

    Raises:
        ValueError: k that is not below K, or scores that are not finite.
    """

    def __init__(self, shape: tuple[int, int, int], k: int, bits: Literal[8, 16]):
        classes, height, width = shape
        if k >= classes:
            raise ValueError(f"logits: {k} are no fewer than all {classes} classes; write logits: full")
        self.shape, self.k, self.bits = shape, k, bits
        self.id_type = torch.uint8 if classes <= 256 else torch.int16
        self.logs_size = height * width * (k + 1) * bits // 8
        self.size = self.logs_size + height * width * k * self.id_type.itemsize
        self.name = f"{_sides(shape)}-top{k}of{bits}"
        self.words = f"{_sides(shape)}, {k} largest in {bits} bits"

    def write(self, maps: Tensor) -> Tensor:
        """One view's scores as bytes."""
        logs = F.log_softmax(maps[0].float(), 0).permute(1, 2, 0)  # (h, w, K)
        if not logs.isfinite().all():
            raise ValueError("scores are not finite")
        values, ids = logs.topk(self.k)  # (h, w, k)
        rest = logs.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
        kept = torch.cat([values, rest], -1)
        if self.bits == 16:
            kept = kept.clamp(min=-LARGEST).half()
        else:
            kept = (-STEP * kept).round().clamp(0, 255).to(torch.uint8)
        parts = (kept, ids.to(self.id_type))
        return torch.cat([part.contiguous().cpu().view(torch.uint8).flatten() for part in parts])

    def read(self, rows: Tensor) -> Tensor:
        """The log probabilities that (B, size) bytes stand for."""
        classes, height, width = self.shape
        shape = len(rows), height, width, -1
        kept, ids = _cut(rows, 0, self.logs_size), _cut(rows, self.logs_size, self.size)
        kept = kept.view(torch.float16).float() if self.bits == 16 else kept.float() / -STEP
        values, rest = kept.view(shape).split([self.k, 1], -1)
        logs = (rest - math.log(classes - self.k)).repeat(1, 1, 1, classes)  # (B, h, w, K)
        logs.scatter_(-1, ids.view(self.id_type).view(shape).long(), values)
        return F.log_softmax(logs, -1).permute(0, 3, 1, 2)


def _cut(rows: Tensor, start: int, end: int) -> Tensor:
    """Some bytes of each row in one piece of memory that begins with them, as a view of another type needs them."""
    return torch.cat(rows[:, start:end].unbind())


def divergence(live: Tensor, stored: Tensor) -> float:
    """Mean over pixels of KL(live || stored) between the softmaxes of two (B, K, h, w) maps of scores, in nats."""
    p, q = (F.log_softmax(scores.float(), 1) for scores in (live, stored))
    return max((p.exp() * (p - q)).sum(1).mean().item(), 0.0)  # of equal maps rounding may leave less


def _sides(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
