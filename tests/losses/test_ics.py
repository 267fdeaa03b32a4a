"""ICS against loops over classes and pixels, one for each reading of the paper."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.ics import ICS

TASK = Task(3, 255, Features("student", {}, {}), Features("teacher", {}, {}))
VARIANTS = ("paper", "raw", "symmetric", "branch", "released")


def scores(seed, height=2, width=3, batch=2, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def prediction(logits, align_corners=False):
    return SimpleNamespace(logits=logits, aux=None, align_corners=align_corners, features={})


def matrix_by_loop(logits, variant, temperature):
    """Plain Python numbers: p[b][k] is the list of a class's probabilities over pixels."""
    if variant == "released":
        p = torch.softmax(logits / temperature, dim=2).flatten(2).tolist()
    else:
        p = torch.softmax(logits.flatten(2) / temperature, dim=2).tolist()

    def entry(i, j):
        total = 0.0
        for image in p:
            for a, b in zip(image[i], image[j], strict=True):
                total += a * (math.log(a) - (math.log(b) if variant in ("paper", "raw", "symmetric") else b))
        return total / len(p)

    classes = range(len(p[0]))
    if variant in ("paper", "raw"):
        rows = [[entry(i, j) for j in classes] for i in classes]
    else:
        rows = [[entry(max(i, j), min(i, j)) for j in classes] for i in classes]
    if variant == "raw":
        return rows
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]


def by_loop(student, teacher, variant, temperature):
    found, goal = (matrix_by_loop(logits, variant, temperature) for logits in (student, teacher))
    squares = [(x - y) ** 2 for a, b in zip(found, goal, strict=True) for x, y in zip(a, b, strict=True)]
    return sum(squares) / len(squares) / (1 if variant == "raw" else len(student))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch, temperature", [(2, 1.0), (1, 3.0)])
def test_value(variant, batch, temperature):
    student, teacher = scores(0, batch=batch), scores(1, batch=batch)
    loss = ICS(TASK, variant=variant, temperature=temperature, size="student")
    wanted = by_loop(student, teacher, variant, temperature)
    assert loss(prediction(student), prediction(teacher), None).item() == pytest.approx(wanted, rel=1e-10)


def test_sizes_and_each_family_resize():
    student, teacher = scores(0, 2, 3), scores(1, 4, 2)
    target = torch.zeros(2, 5, 6, dtype=torch.int64)
    for size, shape in (("student", (2, 3)), ("teacher", (4, 2)), ("target", (5, 6))):
        maps = [
            F.interpolate(logits, size=shape, mode="bilinear", align_corners=align)
            for logits, align in ((student, True), (teacher, False))
        ]
        value = ICS(TASK, size=size)(prediction(student, True), prediction(teacher), target)
        assert value.item() == pytest.approx(by_loop(*maps, "paper", 1.0), rel=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradcheck_of_both(variant):
    loss = ICS(TASK, variant=variant, size="student")
    student, teacher = scores(0).requires_grad_(), scores(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: loss(prediction(s), prediction(t), None), (student, teacher))


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_networks_and_equal_class_maps(variant):
    loss = ICS(TASK, variant=variant, size="student")
    assert loss(prediction(scores(0)), prediction(scores(0)), None).item() == 0
    # all class maps alike: every divergence is 0, and no rounding error is blown up by the row norm
    alike = scores(0)[:, :1].expand(-1, 3, -1, -1).float().contiguous().requires_grad_()
    value = loss(prediction(alike), prediction(scores(1).float()), None)
    value.backward()
    assert value.isfinite() and alike.grad.isfinite().all() and alike.grad.abs().max() < 1e7


def test_bfloat16_autocast_does_not_reach_the_matrix():
    student, teacher = scores(0, 8, 9).float(), scores(1, 8, 9).float()
    plain = ICS(TASK)(prediction(student), prediction(teacher), torch.zeros(2, 8, 9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ICS(TASK)(prediction(student), prediction(teacher), torch.zeros(2, 8, 9))
        half = ICS(TASK)(prediction(student.bfloat16()), prediction(teacher), torch.zeros(2, 8, 9))
    assert cast.item() == plain.item()
    assert half.dtype == torch.float32


def test_float32_is_close_on_large_maps():
    """Pixels hold 1e-5 of a class map: the entries are differences of numbers near log N."""
    student, teacher = scores(0, 250, 250, scale=0.5), scores(1, 250, 250, scale=0.5)
    loss = ICS(TASK, size="student")
    exact = loss(prediction(student), prediction(teacher), None).item()
    assert loss(prediction(student.float()), prediction(teacher.float()), None).item() == pytest.approx(exact, rel=1e-3)


def test_errors():
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        ICS(TASK, temperature=0)
    with pytest.raises(ValueError, match="eps must be above 0, got -1"):
        ICS(TASK, eps=-1)
    with pytest.raises(ValueError, match="a teacher is needed"):
        ICS(Task(3, 255, Features("student", {}, {})))
