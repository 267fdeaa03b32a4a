"""MGD: Yang et al., "Masked Generative Distillation", ECCV 2022, arXiv 2205.01529."""

import torch
from torch import Tensor, nn

from ._pair import Pair
from ._task import Prediction, Share, Task, at_least_float32


class MGD(nn.Module):
    """The teacher's whole feature, generated from the student's with most of its pixels masked.

        L = 1 / B * sum_bcn ( G(r * A(s)) - t )_bcn^2,    r_bn = 1 if u_bn <= 1 - masked, else 0,    u ~ U[0, 1)

    A is a 1x1 convolution with bias where the channels differ, G a 3x3 convolution, ReLU and another 3x3, all with the
    teacher's channels and trained with the student; u is drawn anew each step, one number for all channels of a pixel.

    Source: the paper, in the form released with RMRKD. Its alpha is the term's weight: 2e-5 for segmentation. Summed
    over C', h' and w', so the value grows with channels and crop.
    The two convolutions dominate a step's arithmetic: 18 C'^2 multiplications per pixel forward, 75.5 M at C' = 2048.

    Args:
        masked: share of the pixels that are masked.

    Returns:
        scalar, sum over C'*h'*w' and mean over B, in squared feature units. The teacher gets no gradient.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self, task: Task, *, feature: str = "stage4", teacher_feature: str | None = None, masked: Share = 0.75
    ):
        super().__init__()
        self.masked = masked
        self.pair = Pair(task, feature, teacher_feature)
        self.align = self.pair.alignment()
        channels = self.pair.teacher_channels
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        features, goal = self.pair.maps(student, teacher, self.align)
        goal = goal.detach()
        uniform = torch.rand(len(goal), 1, *goal.shape[-2:], device=goal.device)
        return self.error(features, goal, uniform)

    def error(self, features: Tensor, goal: Tensor, uniform: Tensor) -> Tensor:
        """The loss for given draws: features and goal (B, C', h', w'), uniform (B, 1, h', w') in [0, 1)."""
        keep = uniform <= 1 - self.masked
        generated = at_least_float32(self.generation(features * keep))
        # in place: backward needs the difference only, and a map of the teacher's is large
        return generated.sub_(goal).square().sum() / len(goal)
