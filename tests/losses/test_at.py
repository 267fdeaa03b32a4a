"""AT against a loop over pixels."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.at import AT

TASK = Task(3, 255, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))


def feature(channels, seed, height=3, width=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()


def prediction(head, align_corners=False):
    return SimpleNamespace(logits=None, align_corners=align_corners, aux=None, features={"head": head})


def map_by_loop(feature, power, norm):
    """The attention map of every image as {(image, row, column): value}."""
    batch, channels, height, width = feature.shape
    places = [(b, y, x) for b in range(batch) for y in range(height) for x in range(width)]
    energy = {p: sum(abs(feature[p[0], c, p[1], p[2]].item()) ** power for c in range(channels)) for p in places}
    lengths = {}
    for (b, y, x), value in energy.items():
        group = (b,) if norm == "image" else (b, x)
        lengths[group] = lengths.get(group, 0.0) + value**2
    return {(b, y, x): v / lengths[(b,) if norm == "image" else (b, x)] ** 0.5 for (b, y, x), v in energy.items()}


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("norm", ["image", "column"])
def test_value(power, norm):
    student, teacher = feature(3, 0), feature(5, 1)
    value = AT(TASK, power=power, norm=norm)(prediction(student), prediction(teacher), None)
    s, t = map_by_loop(student, power, norm), map_by_loop(teacher, power, norm)
    assert value.item() == pytest.approx(sum((s[p] - t[p]) ** 2 for p in s) / len(s), rel=1e-12)


def test_student_is_resized_to_the_teacher():
    student, teacher = feature(3, 0), feature(5, 1, 6, 5)
    resized = F.interpolate(student, size=(6, 5), mode="bilinear", align_corners=True)
    value = AT(TASK)(prediction(student, True), prediction(teacher), None)
    torch.testing.assert_close(value, AT(TASK)(prediction(resized), prediction(teacher), None))


def test_gradcheck_and_zero_for_equal_maps():
    student, teacher = feature(3, 0), feature(5, 1)
    assert torch.autograd.gradcheck(lambda s, t: AT(TASK)(prediction(s), prediction(t), None), (student, teacher))
    assert AT(TASK)(prediction(student), prediction(student), None).item() == 0


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_constant_features_are_finite(value):
    student = torch.full((1, 3, 4, 4), value, requires_grad=True)
    loss = AT(TASK)(prediction(student), prediction(feature(5, 1, 4, 4)[:1].float()), None)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_half_precision_is_raised():
    student, teacher = feature(3, 0).detach().bfloat16(), feature(5, 1).detach().bfloat16()
    value = AT(TASK)(prediction(student), prediction(teacher), None)
    wanted = AT(TASK)(prediction(student.double()), prediction(teacher.double()), None)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="at: power must be above 0, got 0"):
        AT(TASK, power=0)
    with pytest.raises(ValueError, match="at: a teacher is needed"):
        AT(Task(3, 255, Features("student", {"head": 3}, {})))
