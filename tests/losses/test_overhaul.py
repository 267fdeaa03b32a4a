"""Overhaul's margins against quadrature and against samples, and the places its distance counts."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.overhaul import Overhaul, margins, partial_l2


def make_task(norms=None):
    student = Features("student", {"stage1_pre": 2, "stage2_pre": 3, "stage1": 2}, {})
    return Task(4, 255, student, Features("teacher", {"stage1_pre": 3, "stage2_pre": 4}, {}, norms=norms or {}))


NAMES = ("stage1_pre", "stage2_pre")
NORMS = {
    "stage1_pre": (torch.tensor([1.0, -0.5, 0.2]), torch.tensor([0.3, -1.0, 0.0])),
    "stage2_pre": (torch.tensor([1.0, 2.0, 0.0, 0.3]), torch.tensor([0.0, 0.5, -0.7, 4.0])),
}


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predictions():
    student = prediction(stage1_pre=random(0, 2, 2, 3, 4), stage2_pre=random(1, 2, 3, 2, 3))
    return student, prediction(stage1_pre=random(2, 2, 3, 3, 4), stage2_pre=random(3, 2, 4, 2, 3))


def test_margins_are_the_mean_of_the_negative_part():
    weight, bias = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([0.3, -1.0, 3.0])
    for w, b, m in zip(weight.tolist(), bias.tolist(), margins(weight, bias).tolist(), strict=True):
        x = torch.linspace(b - 12 * abs(w), 0, 200_001, dtype=torch.float64)
        density = torch.exp(-0.5 * ((x - b) / w) ** 2)
        assert m == pytest.approx((torch.trapezoid(x * density, x) / torch.trapezoid(density, x)).item(), rel=1e-5)


def test_margins_of_rarely_negative_and_of_constant_channels():
    found = margins(torch.tensor([0.5, 0.0, 0.0, 0.0]), torch.tensor([4.0, 2.0, -0.7, 0.0]))
    assert found.tolist() == pytest.approx([-1.5, 0, -0.7, 0], abs=1e-6)


def test_measured_margin_covers_all_batches_and_is_saved():
    loss = Overhaul(make_task(), features=NAMES, divisors=(1.0, 1.0), margin="measured").double()
    seen = []
    for seed in range(3):
        student, teacher = predictions()
        teacher.features["stage1_pre"] = random(10 + seed, 2, 3, 3, 4)
        seen.append(teacher.features["stage1_pre"])
        loss(student, teacher, None)
    negative = torch.cat(seen).transpose(0, 1).flatten(1)
    other = Overhaul(make_task(), features=NAMES, divisors=(1.0, 1.0), margin="measured").double()
    other.load_state_dict(loss.state_dict())
    silent = torch.ones(2, 3, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(other.margin_of(0, silent), torch.stack([c[c < 0].mean() for c in negative]))


def test_partial_distance_leaves_the_silent_side_alone():
    student, teacher = torch.tensor([-3.0, -1.0, 2.0, 2.0]), torch.tensor([-2.0, -2.0, 3.0, -1.0])
    # silent on both sides and below; silent but above; active; active against silent
    assert partial_l2(student, teacher).item() == 0 + 1 + 1 + 9


def test_names_that_do_not_fit():
    task = make_task(NORMS)
    Overhaul(task, features=("stage1", "stage2_pre"), teacher_features=NAMES, divisors=(1.0, 1.0))
    assert (task.student.wanted, task.teacher.wanted) == ({"stage1", "stage2_pre"}, set(NAMES))
    with pytest.raises(ValueError, match="must be as many; got 2, 2 and 4"):
        Overhaul(make_task(NORMS), features=NAMES)
    with pytest.raises(ValueError, match="does not name the batch norm of feature 'stage1_pre'; known are: none"):
        Overhaul(make_task(), features=NAMES, divisors=(1.0, 1.0))
