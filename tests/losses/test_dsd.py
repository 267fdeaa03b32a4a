"""DSD against the formulas written out with loops."""

from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.dsd import DSD

TASK = Task(
    3, 255, Features("student", {"head": 4}, {}, has_aux=True), Features("teacher", {"head": 6}, {}, has_aux=True)
)


def maps(width, seed, height=5, columns=4):
    """aux, head and logits."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, channels, height, columns) for channels in (3, width, 3)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def prediction(levels, align_corners=False):
    aux, head, logits = levels
    return SimpleNamespace(logits=logits, align_corners=align_corners, aux=aux, features={"head": head})


def psd_by_loop(students, teachers):
    total, pairs = 0.0, list(combinations(range(len(students)), 2))
    for image in range(len(students[0])):
        residuals = []
        for levels in (students, teachers):
            energies = [(level[image] ** 2).sum(0).flatten() for level in levels]
            energies = [x / x.norm() for x in energies]
            residuals.append([(energies[j] - energies[i]) / (energies[j] - energies[i]).norm() for i, j in pairs])
        total += sum(((s - t) ** 2).mean().item() for s, t in zip(*residuals, strict=True))
    return total / (len(students[0]) * len(pairs))


def csd_by_loop(student, teacher, temperature):
    grams = []
    for z in (student, teacher):
        height, width = z.shape[2:]
        windows = [z[:, :, y : y + 2, x : x + 2].mean((2, 3)) for y in range(0, height, 2) for x in range(0, width, 2)]
        share = (torch.stack(windows, 2) / temperature).softmax(2)  # (B, K, n)
        grams.append(torch.einsum("bkn,bln->bkl", share, share))
    return ((grams[0] - grams[1]) ** 2).mean().item()


@pytest.mark.parametrize("levels", [("head", "logits"), ("aux", "head", "logits")])
def test_value(levels):
    student, teacher = maps(4, 0), maps(6, 1)
    parts = DSD(TASK, levels=levels, psd=2.0, csd=0.5, temperature=3.0)(prediction(student), prediction(teacher), None)
    first = 3 - len(levels)
    assert parts["psd"].item() == pytest.approx(2.0 * psd_by_loop(student[first:], teacher[first:]), rel=1e-10)
    assert parts["csd"].item() == pytest.approx(0.5 * csd_by_loop(student[2], teacher[2], 3.0), rel=1e-10)


def test_a_part_of_weight_0_is_left_out():
    student, teacher = prediction(maps(4, 0)), prediction(maps(6, 1))
    assert list(DSD(TASK, csd=0.0)(student, teacher, None)) == ["psd"]
    assert list(DSD(TASK, psd=0.0)(student, teacher, None)) == ["csd"]


def test_levels_are_resized_to_the_last_of_the_teacher():
    student, teacher = maps(4, 0), maps(6, 1, 8, 6)
    teacher[1] = maps(6, 2, 3, 3)[1]
    values = DSD(TASK)(prediction(student, True), prediction(teacher), None)
    resized = [F.interpolate(x, size=(8, 6), mode="bilinear", align_corners=True) for x in student]
    step = F.interpolate(student[1], size=(3, 3), mode="bilinear", align_corners=True)
    resized[1] = F.interpolate(step, size=(8, 6), mode="bilinear", align_corners=True)
    teacher[1] = F.interpolate(teacher[1], size=(8, 6), mode="bilinear", align_corners=False)
    wanted = DSD(TASK)(prediction(resized), prediction(teacher), None)
    torch.testing.assert_close(values, wanted)


def test_gradcheck():
    student, teacher = maps(4, 0), maps(6, 1)
    loss = DSD(TASK, psd=1.0, csd=1.0)

    def total(*levels):
        parts = loss(prediction(levels[:3]), prediction(levels[3:]), None)
        return parts["psd"] + parts["csd"]

    assert torch.autograd.gradcheck(total, (*student, *teacher))


def test_equal_networks_give_zero():
    levels = maps(4, 0)
    parts = DSD(Task(3, 255, TASK.student, TASK.student))(prediction(levels), prediction(levels), None)
    assert parts["psd"].item() == 0 and parts["csd"].item() == 0


def test_autocast_leaves_the_products_in_float32():
    student, teacher = ([x.detach().float() for x in levels] for levels in (maps(4, 0), maps(6, 1)))
    wanted = DSD(TASK)(prediction(student), prediction(teacher), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = DSD(TASK)(prediction(student), prediction(teacher), None)
    torch.testing.assert_close(parts, wanted)


def test_errors():
    with pytest.raises(ValueError, match="dsd: two or more levels and as many"):
        DSD(TASK, levels=("logits",))
    with pytest.raises(ValueError, match="dsd: two equal levels have no residual"):
        DSD(TASK, levels=("logits", "head", "logits"))
    with pytest.raises(ValueError, match="the last level has 4 channels in the student and 6 in the teacher"):
        DSD(TASK, levels=("logits", "head"))
    with pytest.raises(ValueError, match="nor both 0; got 0 and 0"):
        DSD(TASK, psd=0, csd=0)
    with pytest.raises(ValueError, match="student has no feature 'neck'; it has: head"):
        DSD(TASK, levels=("neck", "logits"))
