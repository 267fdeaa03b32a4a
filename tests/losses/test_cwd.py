"""CWD against a loop over images and channels."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.cwd import CWD

TASK = Task(3, 255, Features("student", {"head": 4}, {}), Features("teacher", {"head": 6, "neck": 4}, {}))


def prediction(channels, seed, height=3, width=4, align_corners=False):
    generator = torch.Generator().manual_seed(seed)
    maps = [2 * torch.randn(2, c, height, width, generator=generator, dtype=torch.float64) for c in (3, channels)]
    features = {"head": maps[1].requires_grad_(), "neck": maps[1]}
    return SimpleNamespace(logits=maps[0].requires_grad_(), align_corners=align_corners, aux=None, features=features)


def by_loop(student, teacher, temperature):
    """Divergence summed over images and channels, with plain Python numbers."""
    total = 0.0
    for image in range(len(student)):
        for s, t in zip(student[image], teacher[image], strict=True):
            p, q = ([math.exp(v / temperature) for v in x.flatten().tolist()] for x in (t, s))
            p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logits(temperature):
    student, teacher = prediction(4, 0), prediction(6, 1)
    loss = CWD(TASK, temperature=temperature)
    assert loss.projection is None
    wanted = by_loop(student.logits, teacher.logits, temperature) / (2 * 3)
    assert loss(student, teacher, None).item() == pytest.approx(wanted, rel=1e-12)
    assert loss(student, student, None).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("divisor, channels", [("student", 4), ("teacher", 6)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_features_of_other_width_and_size(divisor, channels, align_corners):
    loss = CWD(TASK, feature="head", divisor=divisor).double()
    student, teacher = prediction(4, 0, align_corners=align_corners), prediction(6, 1, 5, 7)
    mapped = F.conv2d(student.features["head"], loss.projection.weight)
    mapped = F.interpolate(mapped, size=(5, 7), mode="bilinear", align_corners=align_corners)
    wanted = by_loop(mapped, teacher.features["head"], 4.0) / (2 * channels)
    assert loss(student, teacher, None).item() == pytest.approx(wanted, rel=1e-12)
    assert CWD(TASK, feature="head", teacher_feature="neck").projection is None


def test_gradcheck():
    student, teacher = prediction(4, 0), prediction(6, 1)
    loss = CWD(TASK, feature="head", temperature=2.0).double()

    def value(s, t, weight):
        guess, goal = (SimpleNamespace(features={"head": x}, align_corners=False) for x in (s, t))
        return loss(guess, goal, None)

    leaves = student.features["head"], teacher.features["head"], loss.projection.weight
    assert torch.autograd.gradcheck(value, leaves)


def test_a_sharp_distribution_stays_finite():
    student, teacher = prediction(4, 0), prediction(6, 1)
    student.logits = (1e4 * student.logits).detach().float().requires_grad_()
    value = CWD(TASK, temperature=1.0)(student, teacher, None)
    value.backward()
    assert value.isfinite() and student.logits.grad.isfinite().all()


def test_half_precision_is_raised():
    student, teacher = prediction(4, 0), prediction(6, 1)
    for p in (student, teacher):
        p.logits = p.logits.detach().bfloat16()
    value = CWD(TASK)(student, teacher, None)
    assert value.dtype == torch.float32
    wanted = by_loop(student.logits.double(), teacher.logits.double(), 4.0) / 6
    assert value.item() == pytest.approx(wanted, rel=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="cwd: temperature must be above 0, got -1"):
        CWD(TASK, temperature=-1)
    with pytest.raises(ValueError, match="cwd: a teacher is needed"):
        CWD(Task(3, 255, Features("student", {}, {})))
    with pytest.raises(ValueError, match="student has no feature 'neck'; it has: head"):
        CWD(TASK, feature="neck")
