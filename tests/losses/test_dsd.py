"""DSD's levels: three of them, of other sizes, and those that make no sense."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.dsd import DSD

TASK = Task(
    3, 255, Features("student", {"head": 4}, {}, has_aux=True), Features("teacher", {"head": 6}, {}, has_aux=True)
)


def maps(width, seed, height=5, columns=4):
    """aux, head and logits."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, channels, height, columns) for channels in (3, width, 3)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def of_levels(levels, align_corners=False):
    aux, head, logits = levels
    return prediction(logits, align_corners, aux, head=head)


def test_three_levels_are_the_mean_of_their_pairs():
    student, teacher, loss = maps(4, 0), maps(6, 1), DSD(TASK, csd=0.0)
    pairs = [loss.of_levels(*zip(*two, strict=True))["psd"] for two in combinations(zip(student, teacher), 2)]
    parts = DSD(TASK, levels=("aux", "head", "logits"), csd=0.0)(of_levels(student), of_levels(teacher), None)
    torch.testing.assert_close(parts["psd"], sum(pairs) / 3)


def test_levels_are_resized_to_the_last_of_the_teacher():
    student, teacher = maps(4, 0), maps(6, 1, 8, 6)
    teacher[1] = maps(6, 2, 3, 3)[1]
    values = DSD(TASK)(of_levels(student, True), of_levels(teacher), None)
    resized = [F.interpolate(x, size=(8, 6), mode="bilinear", align_corners=True) for x in student]
    step = F.interpolate(student[1], size=(3, 3), mode="bilinear", align_corners=True)
    resized[1] = F.interpolate(step, size=(8, 6), mode="bilinear", align_corners=True)
    teacher[1] = F.interpolate(teacher[1], size=(8, 6), mode="bilinear", align_corners=False)
    wanted = DSD(TASK)(of_levels(resized), of_levels(teacher), None)
    torch.testing.assert_close(values, wanted)


def test_errors():
    with pytest.raises(ValueError, match="dsd: as many levels of the teacher as of the student"):
        DSD(TASK, teacher_levels=("logits",))
    with pytest.raises(ValueError, match="dsd: two equal levels have no residual"):
        DSD(TASK, levels=("logits", "head", "logits"))
    with pytest.raises(ValueError, match="the last level has 4 channels in the student and 6 in the teacher"):
        DSD(TASK, levels=("logits", "head"))
