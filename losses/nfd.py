"""Features without mean and scale: PKD (Cao et al., NeurIPS 2022, 2207.02039), NFD (Liu et al., arXiv 2207.05256)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._pair import Pair
from ._relations import standardised
from ._task import Positive, Prediction, Task, at_least_float32, resize

# the dimensions of (B, C, h, w) over which mean and deviation are taken
DIMENSIONS = {"batch_space": (0, 2, 3), "space": (2, 3), "channel": (1,)}


class NFD(nn.Module):
    """Distance of the two features after each has been standardised, so that the student copies patterns, not scales.

        z = (x - mean x) / (deviation x + eps),    L = mean_bcn ( z(W s)_bcn - z(t)_bcn )^2

    with the sample standard deviation. Over n values the mean of squares is 2 (1 - r) (n - 1) / n, r Pearson's
    correlation: it lies between 0 and 4 whatever the features, and so does not depend on batch, width or crop.

    Source: `batch_space` is PKD, whose loss has half the mean of squares: its weights 6 and 10 are 3 and 5 here.
    `space` is NFD, of which no official code exists; what others made of it has the `l2_over_area` below (weight 5).
    Over batch and space a channel keeps the difference between images; over each image's own space, noise of small
    batches is out, and so is that difference; over channels the loss compares directions at each position.
    W is a 1x1 convolution, trained with the student, only where the widths differ.

    Args:
        over: the values that share a mean and a deviation: those of a channel in the images that one process has at a
            time, of a channel in one image, or of all channels at one position.
        distance: `mse`, as above. `l2_over_area`: || z(W s) - z(t) ||_2 / (h w), one norm for the whole batch; its
            gradient does not become smaller near the optimum.
        size: whose grid the features are compared on; the other network's is resized first. NFD takes the student's.
        eps: added to the deviation; a channel that is constant becomes 0.

    Returns:
        scalar without unit, mean over B*C'*h*w for `mse`.

    Raises:
        ValueError: a deviation of a single value, as of a map of 1x1.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        over: Literal["batch_space", "space", "channel"] = "space",
        distance: Literal["mse", "l2_over_area"] = "mse",
        size: Literal["student", "teacher"] = "teacher",
        eps: Positive = 1e-6,
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.over, self.distance, self.size, self.eps = over, distance, size, eps
        # over positions the mean takes a bias away again
        self.projection = self.pair.alignment(bias=over == "channel")

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        if self.size == "teacher":
            guess, goal = self.pair.maps(student, teacher, self.projection)
        else:
            guess, goal = self.pair.read(student, teacher)
            guess = guess if self.projection is None else at_least_float32(self.projection(guess))
            goal = resize(goal, guess.shape[-2:], teacher.align_corners)
        guess, goal = self.pattern(guess), self.pattern(goal)
        if self.distance == "mse":
            return F.mse_loss(guess, goal)
        return torch.linalg.vector_norm(guess - goal) / (goal.shape[2] * goal.shape[3])

    def pattern(self, x: Tensor) -> Tensor:
        """(B, C, h, w) with mean 0 and deviation 1, or 0, over the chosen dimensions."""
        dimensions = DIMENSIONS[self.over]
        if all(x.shape[dimension] == 1 for dimension in dimensions):
            raise ValueError(
                f"nfd: over {self.over} there is one value only in maps of size {tuple(x.shape)} (B, C, h, w), and "
                f"its deviation is not defined; choose another `over` or a feature of a larger map"
            )
        return standardised(x, dimensions, self.eps)
