"""The cosine form against the formula class by class, and its embedding in training."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.region_cosine import RegionCosine

literal = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/transcriptions_rmrkd.py"))["region_cosine"]


def make_task(student=4, teacher=6, classes=4):
    owners = (Features(owner, {"stage4": c}, {}) for owner, c in (("student", student), ("teacher", teacher)))
    return Task(classes, 255, *owners)


def make_loss(task, **options):
    torch.manual_seed(0)
    return RegionCosine(task, **options)


def prediction(seed=0, channels=6, size=(4, 5), batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64).to(dtype)
    return SimpleNamespace(logits=None, aux=None, align_corners=False, features={"stage4": feature.requires_grad_()})


def labels(batch=2, size=(4, 5)):
    target = torch.randint(3, (batch, *size), generator=torch.Generator().manual_seed(0))  # class 3 is absent
    target[:, 0, :2] = 255
    return target


@pytest.mark.parametrize("label_resize", ["nearest", "bilinear_trunc"])
@pytest.mark.parametrize("batch, student_channels", [(2, 4), (1, 6)])
def test_value_and_gradients_are_the_literal_ones(label_resize, batch, student_channels):
    loss = make_loss(make_task(student_channels), label_resize=label_resize).double()
    student, teacher = prediction(0, student_channels, batch=batch), prediction(1, batch=batch)
    target = labels(batch, (8, 10))
    leaves = [student.features["stage4"], *loss.parameters()]
    values = [f(student, teacher, target) for f in (loss, lambda *given: literal(loss, *given))]
    torch.testing.assert_close(*values, rtol=1e-10, atol=0)
    for ours, wanted in zip(*(torch.autograd.grad(value, leaves) for value in values), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


def test_equal_networks_leave_the_absent_classes_only():
    loss = make_loss(make_task(6)).double()
    both = prediction(0)
    # 3 of 4 classes have a centre, whose cosine with itself is 1
    assert loss(both, both, labels()).item() == pytest.approx(1 - 3 / 4, abs=1e-12)


def test_the_embedding_sees_both_maps_and_batch_norm_twice():
    loss = make_loss(make_task(6)).double()
    student, teacher = prediction(0), prediction(1)
    loss(student, teacher, labels()).backward()
    assert loss.embed[1].num_batches_tracked == 2
    assert all(p.grad is not None for p in loss.parameters())
    assert teacher.features["stage4"].grad is None
    loss.eval()(student, teacher, labels())
    assert loss.embed[1].num_batches_tracked == 2


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(training):
    loss = make_loss(make_task(6)).double().train(training)
    teacher = prediction(1, size=(2, 4))

    def value(feature):
        return loss(SimpleNamespace(align_corners=False, features={"stage4": feature}), teacher, labels(size=(2, 4)))

    assert torch.autograd.gradcheck(value, prediction(0, size=(2, 4)).features["stage4"])


def test_the_student_is_resized_to_the_teacher():
    loss = make_loss(make_task()).double()
    student, teacher, target = prediction(0, 4, (3, 4)), prediction(1, 6, (5, 7)), labels(size=(10, 14))
    enlarged = F.interpolate(student.features["stage4"], size=(5, 7), mode="bilinear", align_corners=False)
    wanted = loss(SimpleNamespace(align_corners=False, features={"stage4": enlarged}), teacher, target)
    torch.testing.assert_close(loss(student, teacher, target), wanted)


@pytest.mark.parametrize("constant", [None, 0.0, 2.0])
@pytest.mark.parametrize("target", ["all ignored", "one image ignored", "labelled"])
def test_ignored_batches_and_flat_features_stay_finite(constant, target):
    loss = make_loss(make_task(6))
    student, teacher = prediction(0, dtype=torch.float32), prediction(1, dtype=torch.float32)
    if constant is not None:
        student.features["stage4"].data.fill_(constant)
    label = labels()
    label[: {"all ignored": 2, "one image ignored": 1, "labelled": 0}[target]] = 255
    value = loss(student, teacher, label)
    value.backward()
    gradients = [student.features["stage4"].grad, *(p.grad for p in loss.parameters())]
    assert torch.isfinite(value) and all(torch.isfinite(gradient).all() for gradient in gradients)
    if target == "all ignored":
        assert value.item() == 0 and not any(gradient.any() for gradient in gradients)


def test_autocast_stays_near_float32():
    loss = make_loss(make_task(6, classes=2))
    student, teacher = prediction(0, dtype=torch.float32), prediction(1, dtype=torch.float32)
    target = labels().clamp_max(1)
    wanted = loss(student, teacher, target)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, wanted, rtol=0.1, atol=0.05)


def test_errors():
    with pytest.raises(ValueError, match="region_cosine: a teacher is needed"):
        RegionCosine(Task(3, 255, Features("student", {"stage4": 4}, {})))
