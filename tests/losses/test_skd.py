"""SKD's pair-wise term against a loop over windows and pairs of nodes."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._relations import gram, gram_distance
from segkd.losses._task import Features, Task
from segkd.losses.skd import SKD

TASK = Task(3, 255, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))


def feature(channels, seed, height=5, width=4, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()


def prediction(head, align_corners=False):
    return SimpleNamespace(logits=None, align_corners=align_corners, aux=None, features={"head": head})


def nodes_by_loop(feature, sides, eps):
    """Pooled unit vectors of one (C, h, w) map."""
    _, height, width = feature.shape
    nodes = []
    for y in range(0, height, sides[0]):
        for x in range(0, width, sides[1]):
            vector = feature[:, y : y + sides[0], x : x + sides[1]].amax((1, 2))
            nodes.append(vector / (vector.norm() + eps))
    return nodes


def by_loop(student, teacher, sides, eps=0.0):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        s, t = nodes_by_loop(s, sides, eps), nodes_by_loop(t, sides, eps)
        count = len(s)
        total += sum((s[i] @ s[j] - t[i] @ t[j]).item() ** 2 for i in range(count) for j in range(count))
    return total / (len(student) * count**2)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows(window):
    student, teacher = feature(3, 0), feature(5, 1)
    value = SKD(TASK, window=window)(prediction(student), prediction(teacher), None)
    assert value.item() == pytest.approx(by_loop(student, teacher, (window, window)), rel=1e-10)


@pytest.mark.parametrize("share, sides", [(0.5, (2, 2)), (0.25, (1, 1)), (1.0, (5, 4)), (0.01, (1, 1))])
def test_windows_as_a_share_of_the_map(share, sides):
    student, teacher = feature(3, 0), feature(5, 1)
    value = SKD(TASK, share=share, norm="detached")(prediction(student), prediction(teacher), None)
    assert value.item() == pytest.approx(by_loop(student, teacher, sides, 1e-8), rel=1e-10)


def test_a_detached_norm_is_a_constant():
    student, teacher = feature(3, 0), feature(5, 1)
    norm = student.detach().norm(dim=1, keepdim=True)
    value = SKD(TASK, window=1, norm="detached")(prediction(student), prediction(teacher), None)
    (gradient,) = torch.autograd.grad(value, student)
    nodes = [(x / (n + 1e-8)).flatten(2) for x, n in ((student, norm), (teacher, teacher.norm(dim=1, keepdim=True)))]
    wanted = (nodes[0].mT @ nodes[0] - nodes[1].mT @ nodes[1]).square().mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, student)[0])


@pytest.mark.parametrize("nodes", [3, 40])
def test_distance_of_grams_has_one_value_in_both_forms(nodes):
    student, teacher = feature(3, 0, 1, nodes).flatten(2), feature(5, 1, 1, nodes).flatten(2)
    torch.testing.assert_close(gram_distance(student, teacher), (gram(student) - gram(teacher)).square().sum())


def test_float32_is_near_float64_where_the_square_is_expanded():
    student = F.relu(feature(16, 0, 24, 24, 1)).detach()
    teacher = student + 0.1 * feature(16, 1, 24, 24, 1).detach()
    task = Task(3, 255, Features("student", {"head": 16}, {}), Features("teacher", {"head": 16}, {}))
    exact, rounded = (
        SKD(task, window=1)(prediction(student.to(kind)), prediction(teacher.to(kind)), None).item()
        for kind in (torch.float64, torch.float32)
    )
    assert rounded == pytest.approx(exact, rel=1e-4)


def test_student_is_resized_to_the_teacher():
    student, teacher = feature(3, 0), feature(5, 1, 7, 6)
    resized = F.interpolate(student, size=(7, 6), mode="bilinear", align_corners=True)
    value = SKD(TASK)(prediction(student, True), prediction(teacher), None)
    torch.testing.assert_close(value, SKD(TASK)(prediction(resized), prediction(teacher), None))


def test_gradcheck_and_zero_for_equal_maps():
    student, teacher = feature(3, 0), feature(5, 1)
    assert torch.autograd.gradcheck(lambda s, t: SKD(TASK)(prediction(s), prediction(t), None), (student, teacher))
    assert SKD(TASK)(prediction(student), prediction(student), None).item() == pytest.approx(0, abs=1e-12)


def test_constant_features_are_finite():
    student = torch.zeros(1, 3, 4, 4, requires_grad=True)
    value = SKD(TASK)(prediction(student), prediction(torch.ones(1, 5, 4, 4)), None)
    value.backward()
    assert value.item() == pytest.approx(1) and student.grad.isfinite().all()


def test_errors():
    with pytest.raises(ValueError, match="skd: window must be at least 1 pixel, got 0"):
        SKD(TASK, window=0)
    with pytest.raises(ValueError, match=r"skd: share must lie in \(0, 1\], got 1.5"):
        SKD(TASK, share=1.5)
    with pytest.raises(ValueError, match="skd: a teacher is needed"):
        SKD(Task(3, 255, Features("student", {"head": 3}, {})))
