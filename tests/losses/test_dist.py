"""DIST against correlations by numpy's own routine."""

import numpy as np
import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.dist import DIST

TASK = Task(4, 255, Features("student", {}, {}), Features("teacher", {}, {}))


def scores(seed, height=3, width=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, classes, height, width, generator=generator, dtype=torch.float64)


def parts(student, teacher, counted=None, temperature=1.0):
    """inter and intra from np.corrcoef, over the counted pixels (B, h, w)."""
    rows = []
    for logits in (student, teacher):
        p = torch.softmax(logits / temperature, 1).permute(0, 2, 3, 1)
        rows.append((p.flatten(0, 2) if counted is None else p[counted]).detach().numpy())
    inter = 1 - np.mean([np.corrcoef(s, t)[0, 1] for s, t in zip(*rows, strict=True)])
    intra = 1 - np.mean([np.corrcoef(s, t)[0, 1] for s, t in zip(rows[0].T, rows[1].T, strict=True)])
    return inter, intra


@pytest.mark.parametrize("inter, intra, temperature", [(1.0, 1.0, 1.0), (2.0, 0.0, 3.0), (0.0, 0.5, 1.0)])
def test_value(inter, intra, temperature):
    student, teacher = scores(0), scores(1)
    loss = DIST(TASK, inter=inter, intra=intra, temperature=temperature)
    a, b = parts(student, teacher, temperature=temperature)
    wanted = temperature**2 * (inter * a + intra * b)
    assert loss(prediction(student), prediction(teacher), None).item() == pytest.approx(wanted, rel=1e-6)


def test_aux_counts_where_both_networks_have_it():
    student, teacher, aux_s, aux_t = (scores(seed) for seed in range(4))
    loss = DIST(TASK)
    wanted = sum(parts(student, teacher))
    assert loss(prediction(student, aux=aux_s), prediction(teacher), None).item() == pytest.approx(wanted, rel=1e-6)
    wanted += 0.4 * sum(parts(aux_s, aux_t))
    assert loss(prediction(student, aux=aux_s), prediction(teacher, aux=aux_t), None).item() == pytest.approx(
        wanted, rel=1e-6
    )


def test_mask_leaves_ignored_pixels_out():
    student, teacher = scores(0), scores(1)
    target = torch.tensor([[[0, 255, 1, 1, 255]] * 3, [[2, 2, 2, 2, 2]] * 3])
    for label in (target, target.repeat_interleave(2, 1).repeat_interleave(2, 2)):
        value = DIST(TASK, mask_ignored=True)(prediction(student), prediction(teacher), label)
        assert value.item() == pytest.approx(sum(parts(student, teacher, target != 255)), rel=1e-6)


def test_blind_to_scale_and_shift_of_the_probabilities():
    """The same for a student whose probabilities are a positive linear function of the teacher's."""
    p = torch.softmax(scores(0), 1)
    student = (0.3 * p + 0.7 / 4).log()
    assert DIST(TASK)(prediction(student), prediction(p.log()), None).item() == pytest.approx(0, abs=1e-6)


def test_constant_networks_stay_finite():
    constant = torch.zeros(2, 4, 3, 5)
    for student, teacher in ((constant, scores(1).float()), (scores(1).float(), constant)):
        student = student.clone().requires_grad_()
        value = DIST(TASK)(prediction(student), prediction(teacher), None)
        value.backward()
        assert value.item() == pytest.approx(2, abs=1e-5)
        assert student.grad.isfinite().all()


def test_both_parts_without_a_weight():
    with pytest.raises(ValueError, match="inter and intra are both 0"):
        DIST(TASK, inter=0.0, intra=0.0)
