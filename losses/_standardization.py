"""PHI-S's standardisation of a teacher's feature: one rotation and one scale that give all channels one variance."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ._hadamard import hadamard
from ._memory import of_first


class Standardization(nn.Module):
    """The running mean, covariance and W of one teacher's feature, the same on all processes; formulas in phi_s.py.

    They are no buffers, which wrapping for several processes would send at every step, but saved with the module.

    Args:
        channels: C. rotate, period: PhiS's rotate and update_period.
    """

    def __init__(self, channels: int, rotate: bool, period: int):
        super().__init__()
        self.channels, self.rotate, self.period = channels, rotate, period
        rotation = hadamard(channels) if rotate else torch.eye(channels, dtype=torch.float64)
        eye = torch.eye(channels, dtype=torch.float64)
        # scatter: sum of (t - mean)(t - mean)^T
        zeros = torch.zeros(channels, dtype=torch.float64)
        self.state = {"count": zeros[0], "mean": zeros, "scatter": 0 * eye, "rotation": rotation, "whiten": eye}
        self.calls = 0

    def forward(self, features: Tensor) -> Tensor:
        """W (t - mean): (B, C, h, w) -> (B, C, h, w)."""
        self._move(features.device)
        mean, whiten = (self.state[name].to(features.dtype) for name in ("mean", "whiten"))
        with torch.autocast(features.device.type, enabled=False):
            centred = (features - mean[:, None, None]).flatten(2)  # (B, C, N)
            return (whiten @ centred).view_as(features)

    @torch.no_grad()
    def update(self, features: Tensor, counted: Tensor | None = None) -> None:
        """Adds a batch of two vectors at least, (B, C, h, w), those that are counted: (B, h, w), or None for all."""
        if self.calls > 30 * self.period:
            return
        self._move(features.device)
        rows = features.movedim(1, 3)
        rows = (rows.flatten(0, 2) if counted is None else rows[counted]).double()  # (n, C)
        count, total = summed(rows.new_tensor(len(rows))), summed(rows.sum(0))
        if count < 2:
            return
        mean = total / count
        rows = rows - mean
        scatter = summed(rows.T @ rows)
        state, shift = self.state, mean - self.state["mean"]
        both = state["count"] + count
        state["scatter"] = state["scatter"] + scatter + torch.outer(shift, shift) * (state["count"] * count / both)
        state["mean"] = state["mean"] + shift * (count / both)
        state["count"] = both
        if self.calls % self.period == 0:
            self.refresh()
        self.calls += 1

    @property
    def covariance(self) -> Tensor:
        """(C, C), with divisor n - 1."""
        return self.state["scatter"] / (self.state["count"] - 1)

    def refresh(self) -> None:
        """Takes W from the covariance."""
        variance = self.covariance.diagonal().mean()
        scale = torch.where(variance > 0, variance, 1).rsqrt()  # constant features stay 0
        whiten = self.state["rotation"]
        if self.rotate:
            # eigenvectors are not unique: one process's for all
            whiten = whiten @ of_first(self.eigenvectors(self.covariance)).T
        self.state["whiten"] = scale * whiten

    def eigenvectors(self, covariance: Tensor) -> Tensor:
        """V, as columns, the largest component of each positive."""
        vectors = torch.linalg.eigh(covariance).eigenvectors
        return vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()

    def _move(self, device: torch.device) -> None:
        self.state = {name: x.to(device) for name, x in self.state.items()}

    def get_extra_state(self) -> dict:
        return {**self.state, "calls": self.calls}

    def set_extra_state(self, state: dict) -> None:
        self.state = {name: state[name].clone() for name in self.state}
        self.calls = state["calls"]


def summed(x: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x
