"""Cross pseudo labels against a loop over pixels."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.cross_pseudo import CrossPseudo

TASK = Task(4, 255, Features("student", {}, {}), Features("teacher", {}, {}))


def scores(seed, height, width):
    return torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prediction(logits, align_corners=True):
    return SimpleNamespace(logits=logits, aux=None, align_corners=align_corners, features={})


def by_loop(student, teacher, counted=None):
    values = []
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in (len(student), *student.shape[2:]))).tolist():
        if counted is None or counted[b, y, x]:
            z, t = student[b, :, y, x].tolist(), teacher[b, :, y, x].tolist()
            values.append(math.log(sum(math.exp(v) for v in z)) - z[t.index(max(t))])
    return sum(values) / len(values)


def at(logits, size, align_corners):
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)


def test_value_at_label_size():
    student, teacher = scores(0, 3, 4), scores(1, 2, 3)
    target = torch.full((2, 6, 5), 255)
    value = CrossPseudo(TASK)(prediction(student), prediction(teacher, False), target)
    wanted = by_loop(at(student, (6, 5), True), at(teacher, (6, 5), False))
    assert value.item() == pytest.approx(wanted, rel=1e-12)


def test_mask_leaves_the_padding_out():
    student, teacher = scores(0, 3, 5), scores(1, 3, 5)
    target = torch.zeros(2, 3, 5, dtype=torch.int64)
    target[0, :, 3:] = 255
    value = CrossPseudo(TASK, mask_ignored=True)(prediction(student), prediction(teacher), target)
    assert value.item() == pytest.approx(by_loop(student, teacher, target != 255), rel=1e-12)


def test_all_ignored_under_the_mask_is_an_attached_zero():
    student = scores(0, 3, 5).requires_grad_()
    target = torch.full((2, 3, 5), 255)
    value = CrossPseudo(TASK, mask_ignored=True)(prediction(student), prediction(scores(1, 3, 5)), target)
    value.backward()
    assert value.item() == 0 and not student.grad.any()


@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck_and_none_for_the_teacher(masked):
    student, teacher = scores(0, 3, 2).requires_grad_(), scores(1, 2, 2).requires_grad_()
    target = torch.tensor([[[0, 255, 1]] * 4, [[2, 2, 2]] * 4])
    loss = CrossPseudo(TASK, mask_ignored=masked)
    assert torch.autograd.gradcheck(lambda s: loss(prediction(s), prediction(teacher), target), (student,))
    loss(prediction(student), prediction(teacher), target).backward()
    assert teacher.grad is None


def test_half_precision_is_raised():
    student, teacher = scores(0, 3, 4).half(), scores(1, 3, 4).half()
    value = CrossPseudo(TASK)(prediction(student), prediction(teacher), torch.zeros(2, 3, 4))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(by_loop(student.double(), teacher.double()), rel=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="a teacher is needed"):
        CrossPseudo(Task(4, 255, Features("student", {}, {})))
