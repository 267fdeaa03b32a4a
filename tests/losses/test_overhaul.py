"""Overhaul against loops over places, margins against quadrature and against samples."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

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


def prediction(align_corners=False, **features):
    return SimpleNamespace(logits=None, aux=None, align_corners=align_corners, features=features)


def predictions():
    student = prediction(stage1_pre=random(0, 2, 2, 3, 4), stage2_pre=random(1, 2, 3, 2, 3))
    return student, prediction(stage1_pre=random(2, 2, 3, 3, 4), stage2_pre=random(3, 2, 4, 2, 3))


def by_loop(x, t, margin):
    total = 0.0
    for a, b, m in zip(x.flatten().tolist(), t.flatten().tolist(), margin.expand_as(t).flatten().tolist(), strict=True):
        goal = max(b, m)
        if a > goal or goal > 0:
            total += (a - goal) ** 2
    return total


def mapped(loss, index, feature):
    """The connector, written out."""
    x = torch.einsum("tc,bchw->bthw", loss.connectors[index][0].weight[:, :, 0, 0].double(), feature)
    variance, mean = torch.var_mean(x, (0, 2, 3), unbiased=False, keepdim=True)
    return ((x - mean) / (variance + 1e-5).sqrt()).detach()


@pytest.mark.parametrize("margin", ["batch_norm", "measured", "none"])
def test_value(margin):
    student, teacher = predictions()
    loss = Overhaul(make_task(NORMS), features=NAMES, divisors=(2.0, 1.0), margin=margin).double()
    value = loss(student, teacher, None)
    wanted = 0.0
    for index, (name, divisor) in enumerate(zip(NAMES, (2.0, 1.0), strict=True)):
        goal = teacher.features[name]
        if margin == "batch_norm":
            m = margins(*NORMS[name]).double()
        elif margin == "measured":
            m = torch.stack([channel[channel < 0].mean() for channel in goal.transpose(0, 1)])
        else:
            m = torch.full((goal.shape[1],), -math.inf, dtype=torch.float64)
        wanted += by_loop(mapped(loss, index, student.features[name]), goal, m.view(1, -1, 1, 1)) / divisor / 2
    assert value.item() == pytest.approx(wanted, rel=1e-10)


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


def test_student_is_resized_behind_the_connector():
    loss = Overhaul(make_task(NORMS), features=("stage1_pre",), divisors=(1.0,)).double()
    student, teacher = random(0, 2, 2, 3, 4), random(1, 2, 3, 6, 5)
    x = F.interpolate(mapped(loss, 0, student), size=(6, 5), mode="bilinear", align_corners=True)
    wanted = by_loop(x, teacher, margins(*NORMS["stage1_pre"]).double().view(1, -1, 1, 1)) / 2
    value = loss(prediction(True, stage1_pre=student), prediction(stage1_pre=teacher), None)
    assert value.item() == pytest.approx(wanted, rel=1e-10)


def test_gradcheck():
    student, teacher = predictions()
    loss = Overhaul(make_task(NORMS), features=("stage1_pre",), divisors=(1.0,)).double()
    assert torch.autograd.gradcheck(
        lambda s, *_: loss(prediction(stage1_pre=s), teacher, None),
        (student.features["stage1_pre"].requires_grad_(), *loss.parameters()),
    )


def test_partial_distance_leaves_the_silent_side_alone():
    student, teacher = torch.tensor([-3.0, -1.0, 2.0, 2.0]), torch.tensor([-2.0, -2.0, 3.0, -1.0])
    # silent on both sides and below; silent but above; active; active against silent
    assert partial_l2(student, teacher).item() == 0 + 1 + 1 + 9


def test_half_types_and_constant_features_stay_finite():
    loss = Overhaul(make_task(NORMS), features=("stage1_pre",), divisors=(1.0,))
    student = torch.zeros(1, 2, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(prediction(stage1_pre=student), prediction(stage1_pre=torch.zeros(1, 3, 3, 3).bfloat16()), None)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and student.grad.isfinite().all()


def test_names_and_errors():
    task = make_task(NORMS)
    Overhaul(task, features=("stage1", "stage2_pre"), teacher_features=NAMES, divisors=(1.0, 1.0))
    assert (task.student.wanted, task.teacher.wanted) == ({"stage1", "stage2_pre"}, set(NAMES))
    with pytest.raises(ValueError, match="must be as many, at least one; got 2, 2 and 4"):
        Overhaul(make_task(NORMS), features=NAMES)
    with pytest.raises(ValueError, match=r"divisors must be above 0, got \[1.0, 0.0\]"):
        Overhaul(make_task(NORMS), features=NAMES, divisors=(1.0, 0.0))
    with pytest.raises(ValueError, match="does not tell the batch norm of feature 'stage1_pre'; those it tells: none"):
        Overhaul(make_task(), features=NAMES, divisors=(1.0, 1.0))
    with pytest.raises(ValueError, match="a teacher is needed"):
        Overhaul(Task(4, 255, Features("student", {}, {})))
