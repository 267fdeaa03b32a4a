"""CIRKDv2, channel terms: Yang et al., "CIRKDV2: Cross-Image Relational Knowledge Distillation ...", report 2025."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._gcn import projection_head
from ._memory import Memory, among_images, gather, of_first
from ._pair import Pair
from ._relations import row_divergence, unit
from ._task import Count, Prediction, Task, Temperature, Weight, at_least_float32


class CIRKDChannel(nn.Module):
    """The relations of CIRKD between channels: a channel is the vector of its values at all positions of an image.

        z^s = unit_n( head(pool(s)) ),  z^t = unit_n( pool(t) ),  pool averages windows of 4x4 pixels
        D(a, b) = mean over rows of KL( softmax(a) || softmax(b) )
        minibatch = mean over ordered pairs of images (i, j) of D( z^t_i z^t_j^T / tau, z^s_i z^s_j^T / tau )
        memory    = T^2 * D( z^t Q^T / (tau T), z^s Q^T / (tau T) )    over the B*C' rows of all images
        mse       = mean over B*C'*N of ( z^s - z^t )^2

    Q holds the vectors in random slots of one memory of teacher channels, whatever their image and number. In training
    the memory takes up the batch before Q is drawn.

    Source: channel terms of the second release, weights 1, 0.1 and 100. There the sides of the map must be multiples of
    the window's; here the last windows may be smaller.

    Args:
        minibatch, memory, mse: weights of the parts.
        contrast_temperature: tau, in units of cosine.
        channel_memory: vectors kept. channel_contrast: vectors in Q.
        channels_per_batch: how many random vectors the images of all processes add at most.
        pool: side of the averaged windows in pixels of the map.
        filled_only: leave slots out of Q that no vector was written to yet; the released code starts from random ones.
        half_memory: keep the vectors as float16.
        gather: see CIRKDMinibatch; of the part `minibatch`.

    Returns:
        {minibatch, memory, mse} of the parts left in, weighted scalars; nats, nats, no unit. The teacher gets no
        gradient from the first two.

    Raises:
        ValueError: in forward, with `memory`, teacher maps of another size than those before.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        minibatch: Weight = 1.0,
        memory: Weight = 0.1,
        mse: Weight = 100.0,
        temperature: Temperature = 1.0,
        contrast_temperature: Temperature = 0.1,
        channel_memory: Count = 10000,
        channel_contrast: Count = 2048,
        channels_per_batch: Count = 256,
        pool: Count = 4,
        filled_only: bool = False,
        half_memory: bool = False,
        gather: bool = False,
    ):
        super().__init__()
        if minibatch == memory == mse == 0:
            raise ValueError("cirkd_channel: minibatch, memory and mse are all 0; give one of the parts a weight")
        self.pair = Pair(task, feature, teacher_feature)
        self.head = projection_head(self.pair.student_channels, self.pair.teacher_channels)
        self.minibatch_weight, self.memory_weight, self.mse_weight = minibatch, memory, mse
        self.memory = Memory(1, channel_memory, half_memory) if memory else None
        self.temperature, self.contrast_temperature = temperature, contrast_temperature
        self.contrast = channel_contrast
        self.channels_per_batch = channels_per_batch
        self.pool = pool
        self.filled_only = filled_only
        self.gather = gather

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> dict[str, Tensor]:
        maps = self.pair.maps(student, teacher)
        guess, goal = (F.avg_pool2d(x, self.pool, self.pool, ceil_mode=True) for x in maps)
        guess = at_least_float32(self.head(guess))
        parts = {}
        with torch.autocast(goal.device.type, enabled=False):
            guess, goal = (unit(x.flatten(2), 2) for x in (guess, goal))  # (B, C', N)
            if self.minibatch_weight:
                divergence = among_images(
                    guess, goal, self.contrast_temperature, gathers=self.gather, training=self.training
                )
                parts["minibatch"] = self.minibatch_weight * divergence
            if self.memory_weight:
                parts["memory"] = self.memory_weight * self.against_memory(guess.flatten(0, 1), goal.flatten(0, 1))
            if self.mse_weight:
                parts["mse"] = self.mse_weight * F.mse_loss(guess, goal)
        return parts

    def against_memory(self, guess: Tensor, goal: Tensor) -> Tensor:
        """The unweighted memory part for the vectors of all images' channels, (B C', N)."""
        self.memory.prepare(goal.shape[1], goal.device)
        if self.training:
            self.remember(goal.detach())
        keys = self.memory.sample(self.contrast, self.filled_only).to(goal.dtype)
        scale = 1 / (self.contrast_temperature * self.temperature)
        return self.temperature**2 * row_divergence(guess * scale, keys, goal * scale, keys) / len(goal)

    def remember(self, goal: Tensor) -> None:
        """Writes random ones of all processes' (B C', N) unit vectors into the memory."""
        vectors = torch.cat(gather(goal))
        chosen = of_first(self.draw(len(vectors)).to(goal.device))[: self.channels_per_batch]
        self.memory.write([0], [len(chosen)], vectors[chosen])

    def draw(self, count: int) -> Tensor:
        """A random order of the numbers 0..count-1; that of the first process counts."""
        return torch.randperm(count)
