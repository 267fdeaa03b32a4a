"""AT: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928."""

from typing import Literal

from torch import Tensor, nn

from ._pair import Pair
from ._relations import attention_map, unit
from ._task import Prediction, Task


class AT(nn.Module):
    """Mean squared difference of the two networks' normalised activation maps.

        a = unit( mean_c |f_c|^p ),    L = mean_bn ( a_s - a_t )^2

    Source: eq. 2 of the paper with the mean of squares of its public code, as in CIRKD (weight 10000); the text of the
    paper writes half the L2 norm of the difference. AICSD's released code normalises each column of the image by
    itself (`norm: column`), a slip of axis.

    Args:
        task: sizes of this run; needs a teacher.
        feature: name of the student's feature; `head` is what the classifier reads.
        teacher_feature: name of the teacher's feature; the same name when left out.
        power: p > 0.
        norm: over what the map has unit length. `image`: all positions of an image. `column`: its rows, per column.

    Shapes:
        student map: (B, C, h, w); teacher map: (B, C', h', w'), any channels. A student map of another size is resized
        bilinearly to the teacher's. target: not used. returns: scalar, mean over B*h'*w', no unit.

    Raises:
        ValueError: power <= 0, no teacher, or a feature that a network does not have.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        power: float = 2.0,
        norm: Literal["image", "column"] = "image",
    ):
        super().__init__()
        if power <= 0:
            raise ValueError(f"at: power must be above 0, got {power}")
        self.pair = Pair(task, "at", feature, teacher_feature)
        self.power = power
        self.norm = norm

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = (self.attention(x) for x in self.pair.maps(student, teacher))
        return (guess - goal).square().mean()

    def attention(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w), of unit length per image or per column."""
        energy = attention_map(features, self.power)  # (B, h, w)
        return unit(energy, 1 if self.norm == "column" else (1, 2))
