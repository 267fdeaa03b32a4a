"""A queue of image vectors, the global loss of LightlyTrain's third distillation method (2026; no paper)."""

import torch
from torch import Tensor, nn

from ._memory import gather
from ._pair import Pair
from ._relations import divergence, unit
from ._task import Count, Prediction, Task, Temperature, at_least_float32


class TokenQueue(nn.Module):
    """KL divergence between the similarities of an image's vector to the teacher's vectors of the latest images.

        z^s = unit( W mean_n s + b ),    z^t = unit( mean_n t )
        L = 1 / B * sum_b KL( softmax(z^t_b Q^T / T) || softmax(z^s_b Q^T / T) )

    Q holds the teacher's vectors of the latest images, in training those of this batch first, of all processes. W and b
    are trained with the student.

    Source: the behaviour of the package lightly-train 0.18, T = 0.07, weight 1 beside `token_relation`, which by itself
    leaves the student's space free. It averages a convolutional teacher's map and takes a transformer's class token: a
    feature of size 1x1. Its queues are one per process. Until it is full, the queue's other entries are 0, there too.

    Args:
        temperature: T, in units of cosine.
        queue: vectors kept. There: about a fourth of the images, at least 16, at most 8192.

    Returns:
        scalar, mean over images, in nats. The teacher gets no gradient.
    """

    label_free = True
    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        temperature: Temperature = 0.07,
        queue: Count = 8192,
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.temperature = temperature
        self.projection = nn.Linear(self.pair.student_channels, self.pair.teacher_channels)
        nn.init.trunc_normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)
        # no buffer, which wrapping for several processes would send from the first one at every step; all have the same
        self.size = queue
        self.queue: Tensor | None = None  # (Q, C')

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = (x.mean((2, 3)) for x in self.pair.read(student, teacher))  # (B, C), (B, C')
        guess = at_least_float32(self.projection(guess))
        with torch.autocast(goal.device.type, enabled=False):
            guess, goal = unit(guess, 1), unit(goal.detach(), 1)
            if self.queue is None:
                self.queue = goal.new_zeros(self.size, goal.shape[1])
            self.queue = self.queue.to(goal)
            if self.training:
                self.queue = torch.cat([*gather(goal), self.queue])[: self.size]
            scores, guide = (x @ self.queue.T / self.temperature for x in (guess, goal))  # (B, Q)
            return divergence(scores, guide, 1).mean()

    def get_extra_state(self) -> dict:
        return {"queue": self.queue}

    def set_extra_state(self, state: dict) -> None:
        queue = state["queue"]
        if queue is not None and len(queue) != self.size:
            raise ValueError(
                f"the saved queue has {len(queue)} vectors, this one {self.size}; "
                f"keep the loss's args as they were when the run began"
            )
        self.queue = queue
