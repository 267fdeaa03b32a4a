"""Low-rank updates of the fused query-key-value projections of a vision transformer."""

import math
import re
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Third = Literal["q", "k", "v"]


class LoRAQKV(nn.Module):
    """A frozen fused projection plus a trained rank-r update of some of its thirds.

        y_i = W_i x + b_i + f B_i A_i x  for i in targets,    y_i = W_i x + b_i  for the others

    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685: f = alpha / r. In TSIC
    f = 1. No dropout. A starts uniform in +-1 / sqrt(C), B at zero, so the start changes nothing.
    State-dict keys are TSIC's: `qkv.{weight,bias}` and for each target i `linear_a_i.weight`, `linear_b_i.weight`;
    with an alpha also `factor`, so that the entries tell the whole update.

    Args:
        qkv: the projection C -> 3C, rows in the order q, k, v; becomes frozen.
        rank: r, columns of B.
        targets: the thirds that get an update.
        alpha: None for f = 1.

    Shapes:
        x: (..., C) -> (..., 3C).

    Raises:
        ValueError: a target that is named twice.
    """

    def __init__(
        self, qkv: nn.Linear, rank: int = 4, targets: tuple[Third, ...] = ("q", "v"), alpha: float | None = None
    ):
        super().__init__()
        width = qkv.in_features
        assert qkv.out_features == 3 * width, qkv
        if len(set(targets)) < len(targets):
            raise ValueError(f"lora: targets must be some of q, k, v, each once, got {list(targets)}")
        self.qkv = qkv.requires_grad_(False)
        self.targets = tuple(third for third in "qkv" if third in targets)
        place = {"device": qkv.weight.device, "dtype": qkv.weight.dtype}
        for third in self.targets:
            down, up = nn.Linear(width, rank, bias=False, **place), nn.Linear(rank, width, bias=False, **place)
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            nn.init.zeros_(up.weight)
            self.add_module(f"linear_a_{third}", down)
            self.add_module(f"linear_b_{third}", up)
        self.register_buffer("factor", None if alpha is None else torch.tensor(alpha / rank, **place))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A of all targets on top of each other (t*r, C), and the B that fits, (3C, t*r): block diagonal, 0 elsewhere.

        With them the update is two products whatever the targets, and nothing is written into a slice of the output.
        The factor f is in A.
        """
        down, up = _factors(dict(self.named_parameters()))
        return down if self.factor is None else self.factor * down, up

    @property
    def bias(self) -> Tensor | None:
        """What it makes of zeros, (3C,): the update has no bias."""
        return self.qkv.bias

    def forward(self, x: Tensor) -> Tensor:
        down, up = self.factors()
        return self.qkv(x) + F.linear(F.linear(x, down), up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain projection with the update added to its weight, for use without training; this one stays as it is."""
        down, up = self.factors()
        weight, bias = self.qkv.weight, self.qkv.bias
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype)
        plain.weight.copy_(weight + up @ down)
        if bias is not None:
            plain.bias.copy_(bias)
        return plain


def _factors(entries: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A (t*r, C) and B (3C, t*r) of a projection's parameters by name."""
    targets = [third for third in "qkv" if f"linear_a_{third}.weight" in entries]
    down = torch.cat([entries[f"linear_a_{third}.weight"] for third in targets])
    nothing = down.new_zeros(down.shape[1], 0)
    up = [entries[f"linear_b_{third}.weight"] if third in targets else nothing for third in "qkv"]
    return down, torch.block_diag(*up)


def add_lora(
    encoder: nn.Module, rank: int = 4, targets: tuple[Third, ...] = ("q", "v"), alpha: float | None = None
) -> None:
    """Freezes an encoder and gives each of its `blocks[i].attn.qkv` a trained update; weights are loaded before."""
    encoder.requires_grad_(False)
    for block in encoder.blocks:
        block.attn.qkv = LoRAQKV(block.attn.qkv, rank, targets, alpha)


def merge_lora(encoder: nn.Module) -> None:
    """Undoes `add_lora`, the updates added to the weights: the same outputs and the published encoder's keys again.

    The encoder stays frozen.
    """
    for block in encoder.blocks:
        block.attn.qkv = block.attn.qkv.merged().requires_grad_(False)


def folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entries of an encoder as `merge_lora` leaves them; without updates among them they stay as they are."""
    marks = (re.fullmatch(r"(.*\.qkv)\.linear_a_[qkv]\.weight", key) for key in state)
    owners = dict.fromkeys(mark[1] for mark in marks if mark)
    inside = tuple(f"{owner}." for owner in owners)
    plain = {key: value for key, value in state.items() if not key.startswith(inside)}
    for owner in owners:
        entries = {key.removeprefix(f"{owner}."): x for key, x in state.items() if key.startswith(f"{owner}.")}
        down, up = _factors(entries)
        plain[f"{owner}.weight"] = entries["qkv.weight"] + up @ down * entries.get("factor", 1.0)
        if "qkv.bias" in entries:
            plain[f"{owner}.bias"] = entries["qkv.bias"]
    return plain


def wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entries of an encoder, its plain projections `attn.qkv.*` named as inside `LoRAQKV`: `attn.qkv.qkv.*`."""
    return {re.sub(r"(\battn\.qkv)\.(weight|bias)$", r"\1.qkv.\2", key): value for key, value in state.items()}
