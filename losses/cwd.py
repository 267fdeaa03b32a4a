"""CWD: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, arXiv 2011.13256."""

from typing import Literal

from torch import Tensor, nn

from ._pair import Pair
from ._relations import divergence
from ._task import Prediction, Task, Temperature


class CWD(nn.Module):
    """KL divergence between the teacher's and the student's spatial distribution of every channel.

        L = T^2 / (B C) * sum_bc KL( softmax_n(t / T) || softmax_n(W s / T) )

    Source: eqs. 3 and 4 of the paper; T = 4, weight 3 on logits and 50 on features. W is a 1x1 convolution without
    bias, trained with the student, only where the widths differ. CIRKD's released code divides by the student's
    channels before W, not by those compared: with 128 of 512 channels its loss is 4 times the mean over channels, and
    its weight 50 is made for that. It takes the logarithm of a softmax, which may be -inf where this form is finite.

    Args:
        feature: name of the student's feature; None compares the logits.
        divisor: C. `student`: the student's channels before W (released). `teacher`: the channels compared (paper).

    Returns:
        scalar, mean over B and C, in nats.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str | None = None,
        teacher_feature: str | None = None,
        temperature: Temperature = 4.0,
        divisor: Literal["student", "teacher"] = "student",
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.temperature = temperature
        self.channels = self.pair.student_channels if divisor == "student" else self.pair.teacher_channels
        self.projection = self.pair.alignment(bias=False)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = self.pair.maps(student, teacher, self.projection)
        guess, goal = (x.flatten(2) / self.temperature for x in (guess, goal))  # (B, C', N)
        return self.temperature**2 * divergence(guess, goal, 2).sum() / (len(goal) * self.channels)
