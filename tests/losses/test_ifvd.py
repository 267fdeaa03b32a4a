"""IFVD against a loop over images, classes and pixels."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.ifvd import IFVD

CLASSES, IGNORE = 4, 255


def make_task(ignore_index=IGNORE):
    return Task(CLASSES, ignore_index, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))


def feature(channels, seed, height=4, width=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()


def labels(height=4, width=5, seed=2):
    """Class 3 is absent."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (2, height, width), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    return target


def prediction(head, align_corners=False):
    return SimpleNamespace(logits=None, align_corners=align_corners, aux=None, features={"head": head})


def similarity_by_loop(feature, target, counted=lambda label: label != IGNORE):
    values = []
    for f, y in zip(feature, target, strict=True):
        for row in range(y.shape[0]):
            for column in range(y.shape[1]):
                label = y[row, column].item()
                pixel = f[:, row, column]
                centre = f[:, y == label].sum(1) / (int((y == label).sum()) + 1e-6) if counted(label) else pixel
                values.append((pixel @ centre / (pixel.norm() * centre.norm())).item())
    return values


def by_loop(student, teacher, target, **options):
    s, t = (similarity_by_loop(x, target, **options) for x in (student, teacher))
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)


def test_value():
    student, teacher, target = feature(3, 0), feature(5, 1), labels()
    value = IFVD(make_task())(prediction(student), prediction(teacher), target)
    assert value.item() == pytest.approx(by_loop(student, teacher, target), rel=1e-10)


def test_the_ignored_label_may_be_a_class():
    student, teacher, target = feature(3, 0), feature(5, 1), labels()
    target[target == IGNORE] = 1
    value = IFVD(make_task(ignore_index=0))(prediction(student), prediction(teacher), target)
    assert value.item() == pytest.approx(by_loop(student, teacher, target, counted=lambda x: x != 0), rel=1e-10)


@pytest.mark.parametrize("how", ["nearest", "bilinear_trunc"])
def test_labels_and_student_come_to_the_size_of_the_teacher(how):
    student, teacher, target = feature(3, 0, 3, 3), feature(5, 1), labels(9, 13)
    if how == "nearest":
        small = F.interpolate(target[:, None].double(), size=(4, 5), mode="nearest")[:, 0].long()
    else:
        small = F.interpolate(target[:, None].float(), size=(4, 5), mode="bilinear")[:, 0].long()
    resized = F.interpolate(student, size=(4, 5), mode="bilinear", align_corners=True)
    value = IFVD(make_task(), label_resize=how)(prediction(student, True), prediction(teacher), target)
    wanted = by_loop(resized, teacher, small, counted=lambda label: label < CLASSES)
    assert value.item() == pytest.approx(wanted, rel=1e-10)


def test_the_convolution_is_only_there_where_widths_differ():
    student, teacher, target = feature(3, 0), feature(5, 1), labels()
    loss = IFVD(make_task(), align=True).double()
    value = loss(prediction(student), prediction(teacher), target)
    mapped = F.conv2d(student, loss.align.weight, loss.align.bias)
    assert value.item() == pytest.approx(by_loop(mapped, teacher, target), rel=1e-10)
    equal = Task(CLASSES, IGNORE, Features("student", {"head": 5}, {}), Features("teacher", {"head": 5}, {}))
    assert IFVD(equal, align=True).align is None and IFVD(make_task()).align is None


def test_gradcheck():
    student, teacher, target = feature(3, 0), feature(5, 1), labels()
    loss = IFVD(make_task())
    assert torch.autograd.gradcheck(lambda s, t: loss(prediction(s), prediction(t), target), (student, teacher))


def test_all_pixels_ignored_is_an_attached_zero():
    student = feature(3, 0)
    value = IFVD(make_task())(prediction(student), prediction(feature(5, 1)), torch.full((2, 4, 5), IGNORE))
    value.backward()
    assert value.item() == 0 and not student.grad.any()


def test_constant_features_are_finite():
    for constant in (0.0, 1.0):
        student = torch.full((2, 3, 4, 5), constant, requires_grad=True)
        value = IFVD(make_task())(prediction(student), prediction(feature(5, 1).float()), labels())
        value.backward()
        assert value.isfinite() and student.grad.isfinite().all()


def test_autocast_leaves_the_products_in_float32():
    student, teacher, target = feature(3, 0).detach().bfloat16(), feature(5, 1).detach().bfloat16(), labels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = IFVD(make_task())(prediction(student), prediction(teacher), target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(by_loop(student.double(), teacher.double(), target), rel=1e-4)


def test_errors():
    with pytest.raises(ValueError, match="ifvd: a teacher is needed"):
        IFVD(Task(3, 255, Features("student", {"head": 3}, {})))
    with pytest.raises(ValueError, match="teacher has no feature 'neck'; it has: head"):
        IFVD(make_task(), teacher_feature="neck")
