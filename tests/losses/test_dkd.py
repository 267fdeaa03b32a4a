"""Decoupled channel distillation, in all its forms, against loops over images, classes and labels."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.dkd import DKD

literal = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/transcriptions_rmrkd.py"))["dkd"]
TASK = Task(4, 255, Features("student", {}, {}), Features("teacher", {}, {}))


def prediction(seed, size=(3, 5), batch=2, align_corners=False):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, 4, *size, generator=generator, dtype=torch.float64)
    return SimpleNamespace(logits=logits.requires_grad_(), align_corners=align_corners, aux=None, features={})


def labels(batch=2, size=(3, 5), highest=3):
    target = torch.randint(highest, (batch, *size), generator=torch.Generator().manual_seed(0))
    target[:, 0, :2] = 255
    return target


def kl(y, x):
    """KL( softmax(y) || softmax(x) ) of two vectors."""
    p, q = y.softmax(0), x.softmax(0)
    return (p * (p / q).log()).sum()


def by_loop(s, t, target, ranges, temperature, target_weight, rest_weight, softmax_over, segment):
    """The formula with one mask, row and label at a time."""
    batch, channels, height, width = s.shape
    s, t, parts = s / temperature, t / temperature, []
    masks = torch.stack([(target >= first) & (target <= last) for first, last in ranges], 1).to(s.dtype)
    for mask in (masks, 1 - masks):
        x, y = s * mask, t * mask
        if softmax_over == "spatial":
            rows = [kl(y[b, k].flatten(), x[b, k].flatten()) for b in range(batch) for k in range(channels)]
            parts.append(sum(rows) / (batch * channels))
        else:
            pixels = [kl(y[:, :, i, j].flatten(), x[:, :, i, j].flatten()) for i in range(height) for j in range(width)]
            parts.append(sum(pixels) / (batch * height * width))
    total = target_weight * parts[0] + rest_weight * parts[1]
    for b in range(batch if segment else 0):
        ids = [i for i in target[b].unique().tolist() if i != 255]
        for mask, weight in ((masks, 1.0), (1 - masks, rest_weight)):
            if ids:
                x, y = (torch.stack([(z * mask)[b][:, target[b] == i].mean(1) for i in ids]) for z in (s, t))
                lines = zip(y, x, strict=True) if softmax_over == "spatial" else zip(y.T, x.T, strict=True)
                total = total + weight * sum(kl(q, p) for q, p in lines) / len(ids) / batch
    return temperature**2 * total


@pytest.mark.parametrize("softmax_over", ["spatial", "batch_class"])
@pytest.mark.parametrize("segment", [False, True])
@pytest.mark.parametrize("merge_label", [None, [(0, 0), (2, 5), (1, 1), (6, 9)]])
@pytest.mark.parametrize("batch, temperature", [(2, 4.0), (1, 1.0)])
def test_value_is_that_of_the_loop(softmax_over, segment, merge_label, batch, temperature):
    options = {"temperature": temperature, "target_weight": 0.5, "rest_weight": 2.0, "softmax_over": softmax_over}
    loss = DKD(TASK, segment=segment, merge_label=merge_label, **options)
    student, teacher = prediction(0, batch=batch), prediction(1, batch=batch)
    target = labels(batch, highest=3 if merge_label is None else 9)
    ranges = merge_label or [(k, k) for k in range(4)]
    wanted = by_loop(student.logits, teacher.logits, target, ranges, segment=segment, **options)
    assert loss(student, teacher, target).item() == pytest.approx(wanted.item(), rel=1e-11)


@pytest.mark.parametrize("softmax_over", ["spatial", "batch_class"])
def test_an_image_without_labels_has_no_segments(softmax_over):
    options = {"temperature": 2.0, "target_weight": 1.0, "rest_weight": 3.0, "softmax_over": softmax_over}
    student, teacher, target = prediction(0), prediction(1), labels()
    target[1] = 255
    wanted = by_loop(student.logits, teacher.logits, target, [(k, k) for k in range(4)], segment=True, **options)
    value = DKD(TASK, segment=True, **options)(student, teacher, target)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-11)


def test_transcription_agrees():
    student, teacher, target = prediction(0), prediction(1), labels(size=(6, 10))
    loss = DKD(TASK, target_weight=0.5)
    torch.testing.assert_close(loss(student, teacher, target), literal(loss, student, teacher, target))


@pytest.mark.parametrize("segment", [False, True])
def test_all_ignored_is_channel_wise_distillation(segment):
    student, teacher = prediction(0), prediction(1)
    value = DKD(TASK, temperature=2.0, segment=segment)(student, teacher, torch.full((2, 3, 5), 255))
    maps = zip(student.logits.flatten(0, 1), teacher.logits.flatten(0, 1), strict=True)
    rows = [kl(t.flatten() / 2, s.flatten() / 2) for s, t in maps]
    assert value.item() == pytest.approx(4 * sum(rows).item() / 8, rel=1e-12)


def test_ignored_pixels_belong_to_no_label_whatever_their_number():
    task = Task(4, 3, TASK.student, TASK.teacher)
    student, teacher, target = prediction(0), prediction(1), labels()
    wanted = DKD(TASK, segment=True)(student, teacher, target)
    torch.testing.assert_close(DKD(task, segment=True)(student, teacher, target.where(target != 255, 3)), wanted)


@pytest.mark.parametrize("softmax_over", ["spatial", "batch_class"])
def test_gradcheck_of_both_networks(softmax_over):
    loss = DKD(TASK, temperature=2.0, softmax_over=softmax_over, segment=True)

    def value(s, t):
        student, teacher = (SimpleNamespace(logits=x, align_corners=False) for x in (s, t))
        return loss(student, teacher, labels(size=(2, 3)))

    assert torch.autograd.gradcheck(value, (prediction(0, (2, 3)).logits, prediction(1, (2, 3)).logits))


@pytest.mark.parametrize("softmax_over", ["spatial", "batch_class"])
@pytest.mark.parametrize("ignored", [0, 1, 2])
def test_constant_scores_and_ignored_images_stay_finite(softmax_over, ignored):
    student, teacher, target = prediction(0), prediction(1), labels()
    student.logits.data.fill_(2.0)
    target[:ignored] = 255
    loss = DKD(TASK, softmax_over=softmax_over, segment=True)
    value = loss(student, teacher, target)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.logits.grad).all()
    assert loss(teacher, teacher, target).item() == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_student_is_resized_to_the_teacher(align_corners):
    student, teacher = prediction(0, (3, 4), align_corners=align_corners), prediction(1, (6, 5))
    enlarged = F.interpolate(student.logits, size=(6, 5), mode="bilinear", align_corners=align_corners)
    target = labels(size=(12, 10))
    wanted = DKD(TASK)(SimpleNamespace(logits=enlarged, align_corners=False), teacher, target)
    torch.testing.assert_close(DKD(TASK)(student, teacher, target), wanted)


def test_half_precision_and_autocast_match_float32():
    loss = DKD(TASK, segment=True)
    halves = [prediction(seed).logits.detach().bfloat16() for seed in (0, 1)]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*(SimpleNamespace(logits=x, align_corners=False) for x in halves), labels())
    assert value.dtype == torch.float32
    wanted = loss(*(SimpleNamespace(logits=x.float(), align_corners=False) for x in halves), labels())
    torch.testing.assert_close(value, wanted)


def test_errors():
    with pytest.raises(ValueError, match="dkd: temperature must be above 0, got 0"):
        DKD(TASK, temperature=0)
    with pytest.raises(ValueError, match="dkd: weights must not be negative, got -1 and 1.0"):
        DKD(TASK, target_weight=-1)
    with pytest.raises(ValueError, match="dkd: merge_label holds 2 ranges for 4 classes; one each"):
        DKD(TASK, merge_label=[(0, 1), (2, 3)])
    with pytest.raises(ValueError, match=r"dkd: merge_label holds \(3, 2\), which is no range of label ids"):
        DKD(TASK, merge_label=[(0, 0), (1, 1), (3, 2), (3, 3)])
    with pytest.raises(ValueError, match="dkd: a teacher is needed"):
        DKD(Task(4, 255, Features("student", {}, {})))
