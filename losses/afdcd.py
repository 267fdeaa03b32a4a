"""Af-DCD: Fan et al., "Augmentation-Free Dense Contrastive Knowledge Distillation ...", NeurIPS 2023."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._pair import Pair
from ._task import Count, Prediction, Share, Task, Temperature, Weight, at_least_float32


class AfDCD(nn.Module):
    """The teacher's feature, generated from the student's masked one, and told apart from its own other channels.

        x = G(r * A(s)),    fd = 1/B * sum_bcn ( x - t )_bcn^2,    d_ab = || x_a - t_b ||_1
        contrast = 1 / (B N) * sum_a -log( exp(-d_aa / tau) / (exp(-d_aa / tau) + sum_b exp(-d_ab / tau)) )

    A is a 1x1 convolution with bias where the channels differ, r a mask, G two 3x3 convolutions, all trained with the
    student. For the contrast both maps are pooled to N positions and cut into patches, their channels into groups: a
    vector is one group at one position, b runs over the other groups at all positions of a's patch. Rows and columns
    that fill no patch are left out.

    Source: the released code, with `kl` beside it; the paper's text was not at hand. Weights of fd and contrast: 2e-6
    and 5e-3 on Cityscapes, 1e-6 and 5e-3 on VOC, 8e-6 and 1e-2 on CamVid (pool 1), 1e-6 and 4e-2 on ADE20K, 5e-6 and
    5e-3 on COCO-Stuff. fd is a sum, so its weight belongs to a crop and a width. Which mask and projector made its
    table is open: the published command has the centre and `enhanced`, but cannot run. At C' = 2048 the plain projector
    has 75.5 M weights, more than most students.

    Args:
        fd, contrast: weights of the two parts.
        contrast_temperature: tau, in units of the features, of which a distance is the sum over a group's channels.
        groups: of consecutive channels; they must divide the teacher's.
        pool: side of the windows of which the maximum is taken, 1 for none; a remainder is dropped.
        patch: height and width of a patch in pooled pixels.
        mask: `random`: another share `masked` of the pixels at each step. `center`: the middle third of rows and
            columns.
        masked: share of the pixels that the random mask hides.
        projector: G. `plain`: with a ReLU between the two. `enhanced`: the mean of convolutions of the first and of the
            second of two such layers.

    Returns:
        {fd, contrast} of the parts left in, weighted scalars: squared feature units, nats. The teacher gets no
        gradient.

    Raises:
        ValueError: groups that do not divide the teacher's channels; in forward, a pooled map smaller than a patch.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "stage4",
        teacher_feature: str | None = None,
        fd: Weight = 2e-6,
        contrast: Weight = 5e-3,
        contrast_temperature: Temperature = 0.07,
        groups: Count = 16,
        pool: Count = 4,
        patch: tuple[Count, Count] = (4, 4),
        mask: Literal["random", "center"] = "random",
        masked: Share = 0.75,
        projector: Literal["plain", "enhanced"] = "plain",
    ):
        super().__init__()
        if fd == contrast == 0:
            raise ValueError("afdcd: fd and contrast are both 0; give one of the two parts a weight")
        self.pair = Pair(task, feature, teacher_feature)
        channels = self.pair.teacher_channels
        if channels % groups:
            raise ValueError(f"afdcd: groups must divide the teacher's channels; got {groups} for {channels} channels")
        self.weights = {"fd": fd, "contrast": contrast}
        self.contrast_temperature = contrast_temperature
        self.groups, self.pool, self.patch = groups, pool, patch
        self.mask, self.masked = mask, masked
        self.align = self.pair.alignment()
        self.projector = (
            _Enhanced(channels)
            if projector == "enhanced"
            else nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
        )

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> dict[str, Tensor]:
        features, goal = self.pair.maps(student, teacher, self.align)
        goal = goal.detach()
        generated = at_least_float32(self.projector(features * self.keep(goal)))
        parts = {}
        with torch.autocast(goal.device.type, enabled=False):
            if self.weights["fd"]:
                parts["fd"] = self.weights["fd"] * F.mse_loss(generated, goal, reduction="sum") / len(goal)
            if self.weights["contrast"]:
                parts["contrast"] = self.weights["contrast"] * self.contrast(generated, goal)
        return parts

    def keep(self, goal: Tensor) -> Tensor:
        """(B, 1, h', w'), False where the student's map is hidden."""
        if self.mask == "random":
            return self.draw(goal) <= 1 - self.masked
        height, width = goal.shape[-2:]
        keep = torch.ones(1, 1, height, width, dtype=torch.bool, device=goal.device)
        keep[..., height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = False
        return keep

    def draw(self, goal: Tensor) -> Tensor:
        """(B, 1, h', w') in [0, 1)."""
        return torch.rand(len(goal), 1, *goal.shape[-2:], device=goal.device)

    def contrast(self, generated: Tensor, goal: Tensor) -> Tensor:
        """The unweighted contrast of two (B, C', h', w') maps."""
        generated, goal = (self.vectors(x) for x in (generated, goal))  # (P, n M, C' / M)
        scores = torch.cdist(generated, goal, p=1) / -self.contrast_temperature  # (P, n M, n M)
        own = scores.diagonal(dim1=1, dim2=2)
        group = torch.arange(scores.shape[1], device=scores.device) % self.groups
        # not -inf, whose gradient is NaN where a single group leaves no others
        others = scores.masked_fill(group[:, None] == group, torch.finfo(scores.dtype).min).logsumexp(2)
        # own and the others apart: of the same group only the vector at the same position counts
        return F.softplus(others - own).sum() / (own.numel() / self.groups)

    def vectors(self, x: Tensor) -> Tensor:
        """Patch by patch, the groups of each position: (B, C', h', w') -> (patches, positions * M, C' / M)."""
        height, width = (side // self.pool for side in x.shape[-2:])
        high, wide = height // self.patch[0], width // self.patch[1]
        if high * wide == 0:
            raise ValueError(
                f"afdcd: the pooled map is {height} x {width}, less than one patch of "
                f"{self.patch[0]} x {self.patch[1]}; make the crop larger, or pool or patch smaller"
            )
        if self.pool > 1:
            x = F.max_pool2d(x, self.pool)
        x = x[..., : high * self.patch[0], : wide * self.patch[1]]
        x = x.unflatten(3, (wide, -1)).unflatten(2, (high, -1)).unflatten(1, (self.groups, -1))
        # (B, M, C' / M, high, ph, wide, pw) -> (B, high, wide, ph, pw, M, C' / M)
        return x.permute(0, 3, 5, 4, 6, 1, 2).flatten(3, 5).flatten(0, 2)


class _Enhanced(nn.Module):
    """( W_3 a + W_4 b ) / 2,  a = relu(W_1 x),  b = relu(W_2 a), all W 3x3 convolutions with bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second, self.of_first, self.of_second = (
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.first(x))
        return (self.of_first(first) + self.of_second(F.relu(self.second(first)))) / 2
