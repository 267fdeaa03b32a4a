"""Inter-class distances against the formula pair by pair, and where centres coincide."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._regions import class_centres, one_hot
from segkd.losses._task import Features, Task
from segkd.losses.region_distance import RegionDistance, distances

literal = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/transcriptions_rmrkd.py"))["region_distance"]


def make_task(student=4, teacher=6, classes=4):
    owners = (Features(owner, {"stage4": c}, {}) for owner, c in (("student", student), ("teacher", teacher)))
    return Task(classes, 255, *owners)


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
    loss = RegionDistance(make_task(student_channels), label_resize=label_resize).double()
    student, teacher = prediction(0, student_channels, batch=batch), prediction(1, batch=batch)
    target = labels(batch, (8, 10))
    leaves = [student.features["stage4"], *loss.parameters()]
    values = [f(student, teacher, target) for f in (loss, lambda *given: literal(loss, *given))]
    torch.testing.assert_close(*values, rtol=1e-10, atol=0)
    for ours, wanted in zip(*(torch.autograd.grad(value, leaves) for value in values), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


def test_closed_form():
    # two classes, one channel: the only distances are 3 - 1 = 2 and 10 - 4 = 6, up to the constants of 1e-6
    task = make_task(1, 1, classes=2)
    student, teacher = (
        SimpleNamespace(align_corners=False, features={"stage4": torch.tensor(x).double().view(1, 1, 1, 3)})
        for x in ([3.0, 1.0, 7.0], [10.0, 4.0, 5.0])
    )
    value = RegionDistance(task)(student, teacher, torch.tensor([[[0, 1, 255]]]))
    assert value.item() == pytest.approx(0.5 * (6 - 2) ** 2, rel=1e-5)


def test_distances_keep_small_differences_far_from_the_origin():
    centres = 100 + 1e-3 * torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    wanted = torch.stack([(centres.double()[0, i] - centres.double()[0] + 1e-6).norm(dim=-1) for i in range(5)])
    torch.testing.assert_close(distances(centres)[0].double(), wanted, rtol=1e-3, atol=2e-4)


def test_centres_of_absent_classes_are_zero():
    features = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    centres = class_centres(features, one_hot(labels(), 4, torch.float32))
    assert not centres[:, 3].any()
    there = (labels() == 1).flatten(1)
    torch.testing.assert_close(centres[0, 1], features[0][:, there[0]].mean(-1), rtol=1e-5, atol=1e-6)


def test_gradcheck_and_no_gradient_for_the_teacher():
    loss = RegionDistance(make_task(6)).double()
    student, teacher = prediction(0), prediction(1)

    def value(feature):
        return loss(SimpleNamespace(align_corners=False, features={"stage4": feature}), teacher, labels())

    assert torch.autograd.gradcheck(value, student.features["stage4"])
    loss(student, teacher, labels()).backward()
    assert teacher.features["stage4"].grad is None


def test_the_student_is_resized_to_the_teacher():
    loss = RegionDistance(make_task()).double()
    student, teacher, target = prediction(0, 4, (3, 4)), prediction(1, 6, (5, 7)), labels(size=(10, 14))
    enlarged = F.interpolate(student.features["stage4"], size=(5, 7), mode="bilinear", align_corners=False)
    wanted = loss(SimpleNamespace(align_corners=False, features={"stage4": enlarged}), teacher, target)
    torch.testing.assert_close(loss(student, teacher, target), wanted)


@pytest.mark.parametrize("constant", [None, 0.0, 2.0])
@pytest.mark.parametrize("ignored", [True, False])
def test_ignored_batches_and_flat_features_stay_finite(constant, ignored):
    loss = RegionDistance(make_task(6))
    student, teacher = prediction(0, dtype=torch.float32), prediction(1, dtype=torch.float32)
    if constant is not None:
        student.features["stage4"].data.fill_(constant)
    value = loss(student, teacher, torch.full((2, 4, 5), 255) if ignored else labels())
    value.backward()
    gradient = student.features["stage4"].grad
    assert torch.isfinite(value) and torch.isfinite(gradient).all()
    if ignored:
        assert value.item() == 0 and not gradient.any()


def test_half_precision_and_autocast_match_float32():
    loss = RegionDistance(make_task(6))
    exact = [prediction(seed, dtype=torch.bfloat16) for seed in (0, 1)]
    raised = [SimpleNamespace(align_corners=False, features={"stage4": p.features["stage4"].float()}) for p in exact]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*exact, labels())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*raised, labels()))


def test_errors():
    with pytest.raises(ValueError, match="teacher has no feature 'stage3'; it has: stage4"):
        RegionDistance(make_task(), teacher_feature="stage3")
    with pytest.raises(ValueError, match="region_distance: a teacher is needed"):
        RegionDistance(Task(3, 255, Features("student", {"stage4": 4}, {})))
