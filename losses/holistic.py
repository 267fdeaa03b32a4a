"""Holistic term of SKD: Liu et al., "Structured Knowledge Distillation ...", CVPR 2019, arXiv 1903.04197."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._discriminator import Discriminator
from ._pair import Pair
from ._task import Positive, Prediction, Task


class Holistic(nn.Module):
    """Adversarial distillation: a discriminator D learns to tell the networks' scores apart, the student to fool it.

        L = -mean D(s)                                              (the student's, returned by forward)
        L_D = w ( mean relu(1 - D(t)) + mean relu(1 + D(s)) )       (hinge; the discriminator's, s a constant)
        L_D = w ( mean D(s) - mean D(t) )                           (wasserstein)

    Source: eq. 5 of the paper as released by CIRKD, weight 0.001, beside `skd`, `ifvd` or `cwd`. D reads plain scores
    without softmax or image. The paper trains with the Wasserstein form and a gradient penalty, which no released code
    computes; the hinge form is what they run.

    The discriminator, `adversary`, is part of this module, so it moves, is saved and has its buffers shared with it,
    but its parameters ask for no gradient outside adversary_loss: the optimizer of the networks does not see them.
    After each step of the student the loop steps them with adversary_optimizer(), gradients averaged over processes.

    Args:
        objective: the form of L_D.
        adversary_weight: w. adversary_lr: constant learning rate of D's Adam, betas (0.9, 0.99).

    Returns:
        scalar, mean over B and D's windows, no unit. The teacher gets no gradient.

    Raises:
        ValueError: in forward, scores of the teacher smaller than 64x64.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        objective: Literal["hinge", "wasserstein"] = "hinge",
        adversary_weight: Positive = 0.1,
        adversary_lr: Positive = 4e-4,
    ):
        super().__init__()
        self.pair = Pair(task, "logits")
        self.objective = objective
        self.adversary_weight, self.adversary_lr = adversary_weight, adversary_lr
        self.adversary = Discriminator(task.num_classes).requires_grad_(False)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, _ = self.maps(student, teacher)
        self.adversary.requires_grad_(False)
        with torch.autocast(guess.device.type, enabled=False):
            return generator_loss(self.adversary(guess))

    def adversary_loss(self, student: Prediction, teacher: Prediction) -> Tensor:
        """The discriminator's scalar for the same maps; its gradient reaches the discriminator only."""
        guess, goal = self.maps(student, teacher)
        self.adversary.requires_grad_(True)
        with torch.autocast(guess.device.type, enabled=False):
            of_student = self.adversary(guess.detach())
            of_teacher = self.adversary(goal.detach())
        return self.adversary_weight * discriminator_loss(of_student, of_teacher, self.objective)

    def adversary_optimizer(self) -> torch.optim.Optimizer:
        """A new optimizer of the discriminator's parameters, where they are now."""
        return torch.optim.Adam(self.adversary.parameters(), lr=self.adversary_lr, betas=(0.9, 0.99))

    def maps(self, student: Prediction, teacher: Prediction) -> tuple[Tensor, Tensor]:
        """Both networks' (B, K, h', w') scores. ValueError: smaller than the discriminator can read."""
        guess, goal = self.pair.maps(student, teacher)
        if min(goal.shape[-2:]) < Discriminator.smallest:
            height, width = goal.shape[-2:]
            raise ValueError(
                f"holistic: the teacher's scores have {height}x{width} pixels, the discriminator needs 64x64; "
                f"take a larger data.crop_size (512 at stride 8)"
            )
        return guess, goal


def generator_loss(of_student: Tensor) -> Tensor:
    """The student's loss for the discriminator's scores of its maps, a scalar."""
    return -of_student.mean()


def discriminator_loss(
    of_student: Tensor, of_teacher: Tensor, objective: Literal["hinge", "wasserstein"] = "hinge"
) -> Tensor:
    """The discriminator's loss for its scores of the student's and the teacher's maps, a scalar."""
    if objective == "hinge":
        return F.relu(1 - of_teacher).mean() + F.relu(1 + of_student).mean()
    return of_student.mean() - of_teacher.mean()
