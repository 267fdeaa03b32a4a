"""ICKD against a loop over images and channels."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._relations import row_gram
from segkd.losses._task import Features, Task
from segkd.losses.ickd import ICKD


def make_task():
    return Task(4, 255, Features("student", {"stage4": 3, "head": 2}, {}), Features("teacher", {"stage4": 5}, {}))


def prediction(logits=None, **features):
    return SimpleNamespace(logits=logits, aux=None, align_corners=False, features=features)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loop(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for i in range(len(s)):
            row_s, row_t = ([float((m[i] * m[j]).sum()) for j in range(len(m))] for m in (s, t))
            norm_s, norm_t = (sum(x * x for x in row) ** 0.5 for row in (row_s, row_t))
            total += sum((x / norm_s - y / norm_t) ** 2 for x, y in zip(row_s, row_t, strict=True))
    return total / (student.shape[0] * student.shape[1])


def test_logits():
    student, teacher = random(0, 2, 4, 3, 5), random(1, 2, 4, 3, 5)
    loss = ICKD(make_task(), feature=None)
    value = loss(prediction(student), prediction(teacher), None)
    assert value.item() == pytest.approx(by_loop(student, teacher), rel=1e-12)
    assert not list(loss.parameters())


def test_feature_behind_the_learnt_part():
    student, teacher = random(0, 2, 3, 3, 5), random(1, 2, 5, 6, 4)
    loss = ICKD(make_task()).double()
    mapped = torch.einsum("tc,bchw->bthw", loss.embed[0].weight[:, :, 0, 0], student)
    mapped = (mapped - mapped.mean((0, 2, 3), keepdim=True)) / (
        mapped.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5
    ).sqrt()
    mapped = F.interpolate(mapped, size=(6, 4), mode="bilinear")
    value = loss(prediction(stage4=student), prediction(stage4=teacher), None)
    assert value.item() == pytest.approx(by_loop(mapped.detach(), teacher), rel=1e-10)


def test_gradcheck():
    # of one image: there batch norm's own gradient on CPU is wrong for some layouts
    student, teacher = random(0, 1, 3, 3, 2).requires_grad_(), random(1, 1, 5, 3, 2)
    loss = ICKD(make_task()).double()
    assert torch.autograd.gradcheck(
        lambda s, *_: loss(prediction(stage4=s), prediction(stage4=teacher), None), (student, *loss.parameters())
    )


def test_constant_and_silent_maps_stay_finite():
    for constant in (0.0, 3.0):
        loss = ICKD(make_task())
        student = torch.full((1, 3, 4, 4), constant, requires_grad=True)
        loss(prediction(stage4=student), prediction(stage4=torch.full((1, 5, 4, 4), constant)), None).backward()
        assert student.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_bfloat16_autocast_does_not_reach_the_products():
    student, teacher = random(0, 2, 4, 3, 5).float(), random(1, 2, 4, 3, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ICKD(make_task(), feature=None)(prediction(student), prediction(teacher), None)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(by_loop(student, teacher), rel=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="student has no feature 'neck'; it has: stage4, head"):
        ICKD(make_task(), feature="neck")
    with pytest.raises(ValueError, match="a teacher is needed"):
        ICKD(Task(4, 255, Features("student", {"stage4": 3}, {})))


@pytest.mark.parametrize("rows", [3, 4, 7])
def test_row_gram_is_the_product_in_any_number_of_blocks_with_its_gradient(rows):
    x = torch.randn(2, rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(rows), requires_grad=True)
    torch.testing.assert_close(row_gram(x, block=3), torch.einsum("bin,bjn->bij", x, x))
    assert torch.autograd.gradcheck(lambda x: row_gram(x, block=3), x)
