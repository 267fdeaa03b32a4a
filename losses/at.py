"""AT: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928."""

from typing import Annotated, Literal

from annotated_types import Interval
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
        power: p; sums of larger powers than 8 leave the range of float32.
        norm: over what the map has unit length. `image`: all positions of an image. `column`: its rows, per column.

    Returns:
        scalar, mean over B*h'*w', no unit.
    """

    label_free = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        power: Annotated[float, Interval(ge=1, le=8)] = 2.0,
        norm: Literal["image", "column"] = "image",
    ):
        super().__init__()
        self.pair = Pair(task, feature, teacher_feature)
        self.power = power
        self.norm = norm

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        guess, goal = (self.attention(x) for x in self.pair.maps(student, teacher))
        return (guess - goal).square().mean()

    def attention(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w), of unit length per image or per column."""
        energy = attention_map(features, self.power)  # (B, h, w)
        return unit(energy, 1 if self.norm == "column" else (1, 2))
