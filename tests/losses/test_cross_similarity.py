"""Cross similarity against the formula written with masks and cosines per class, and its edge cases."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._regions import one_hot
from segkd.losses._relations import inverse_norm
from segkd.losses._task import Features, Task
from segkd.losses.cross_similarity import CrossSimilarity, similarities

literal = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/transcriptions_rmrkd.py"))["cross_similarity"]


def make_task(student=4, teacher=6, classes=3):
    owners = (Features(owner, {"stage4": c}, {}) for owner, c in (("student", student), ("teacher", teacher)))
    return Task(classes, 255, *owners)


def prediction(seed=0, channels=6, size=(4, 5), batch=2, dtype=torch.float64, align_corners=False):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return SimpleNamespace(logits=None, aux=None, align_corners=align_corners, features={"stage4": feature})


def labels(batch=2, size=(4, 5), classes=3, seed=0):
    target = torch.randint(classes, (batch, *size), generator=torch.Generator().manual_seed(seed))
    target[:, 0, :2] = 255
    return target


@pytest.mark.parametrize("softmax_over", ["column", "spatial"])
@pytest.mark.parametrize("label_resize", ["nearest", "bilinear_trunc"])
@pytest.mark.parametrize("batch, student_channels, classes", [(2, 4, 3), (1, 6, 7)])
def test_value_and_gradients_are_the_literal_ones(softmax_over, label_resize, batch, student_channels, classes):
    task = make_task(student=student_channels, classes=classes)
    loss = CrossSimilarity(task, softmax_over=softmax_over, label_resize=label_resize).double()
    student, teacher = prediction(0, student_channels, batch=batch), prediction(1, batch=batch)
    target = labels(batch, (12, 20), 3)  # with 7 classes most are absent
    leaves = [student.features["stage4"], *loss.parameters()]
    values = [f(student, teacher, target) for f in (loss, lambda *given: literal(loss, *given))]
    torch.testing.assert_close(*values, rtol=1e-10, atol=0)
    for ours, wanted in zip(*(torch.autograd.grad(value, leaves) for value in values), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


def test_closed_form_of_one_column():
    # one class on the upper pixel of two; the centre is that pixel, so its own cosine is 1
    task = make_task(2, 2, classes=1)
    maps = (torch.tensor(x, dtype=torch.float64).T.view(1, 2, 2, 1) for x in ([[1, 0], [0, 1]], [[0.6, 0.8], [1, 0]]))
    student, teacher = (SimpleNamespace(align_corners=False, features={"stage4": x}) for x in maps)
    value = CrossSimilarity(task, temperature=0.5)(student, teacher, torch.tensor([[[0], [255]]]))

    def kl(a, b):  # of two-pixel maps, divided by T already
        p, q = ([math.exp(v) / sum(map(math.exp, x)) for v in x] for x in (a, b))
        return sum(y * math.log(y / x) for x, y in zip(p, q, strict=True))

    # [in, out] of the region, by the student's centre (1, 0), then by the teacher's (0.6, 0.8)
    wanted = kl([2, 0], [1.2, 0]) + kl([0, 0], [0, 2]) + kl([1.2, 0], [2, 0]) + kl([0, 1.6], [0, 1.2])
    assert value.item() == pytest.approx(0.25 * wanted / 4, rel=1e-12)


def test_gradcheck_of_the_cosines_and_none_for_the_teacher():
    masks = one_hot(labels(size=(2, 4)), 3, torch.float64)
    student, teacher = (prediction(seed, size=(2, 4)).features["stage4"].flatten(2) for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda x: similarities(x, teacher.detach(), masks)[0], student)
    assert not similarities(student, teacher, masks)[1].requires_grad
    guide = prediction(1)
    CrossSimilarity(make_task()).double()(prediction(0, 4), guide, labels()).backward()
    assert guide.features["stage4"].grad is None


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_student_is_resized_to_the_teacher(align_corners):
    loss = CrossSimilarity(make_task()).double()
    student, teacher = prediction(0, 4, (3, 4), align_corners=align_corners), prediction(1, 6, (5, 7))
    target = labels(size=(10, 14))
    enlarged = F.interpolate(student.features["stage4"], size=(5, 7), mode="bilinear", align_corners=align_corners)
    wanted = loss(SimpleNamespace(align_corners=False, features={"stage4": enlarged}), teacher, target)
    torch.testing.assert_close(loss(student, teacher, target), wanted)


@pytest.mark.parametrize("feature", ["random", "zero", "constant"])
@pytest.mark.parametrize("ignored", [True, False])
def test_ignored_batches_and_flat_features_stay_finite(feature, ignored):
    loss = CrossSimilarity(make_task(6, 6))
    student, teacher = prediction(0, dtype=torch.float32), prediction(1, dtype=torch.float32)
    if feature != "random":
        student.features["stage4"].data.fill_(0.0 if feature == "zero" else 2.0)
    value = loss(student, teacher, torch.full((2, 4, 5), 255) if ignored else labels())
    value.backward()
    gradient = student.features["stage4"].grad
    assert torch.isfinite(value) and torch.isfinite(gradient).all()
    if ignored:
        assert value.item() == 0 and not gradient.any()
    if feature == "zero":
        assert not gradient.any()


def test_half_precision_and_autocast_match_float32():
    loss = CrossSimilarity(make_task(6, 6))
    exact = [prediction(seed, dtype=torch.bfloat16) for seed in (0, 1)]
    raised = [SimpleNamespace(align_corners=False, features={"stage4": p.features["stage4"].float()}) for p in exact]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*exact, labels())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*raised, labels()))


def test_inverse_norm_of_nothing_is_nothing():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]], requires_grad=True)
    inverse = inverse_norm(x, 1)
    torch.testing.assert_close(inverse, torch.tensor([[0.2], [0.0], [0.0]]))
    inverse.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[-3 / 125, -4 / 125], [0.0, 0.0], [0.0, 0.0]]))


def test_errors():
    with pytest.raises(ValueError, match="cross_similarity: temperature must be above 0, got 0"):
        CrossSimilarity(make_task(), temperature=0)
    with pytest.raises(ValueError, match="student has no feature 'stage3'; it has: stage4"):
        CrossSimilarity(make_task(), feature="stage3")
    with pytest.raises(ValueError, match="cross_similarity: a teacher is needed"):
        CrossSimilarity(Task(3, 255, Features("student", {"stage4": 4}, {})))
