"""The cosine form between equal networks, and its embedding in training."""

from types import SimpleNamespace

import pytest
import torch

from segkd.losses._task import Features, Task
from segkd.losses.region_cosine import RegionCosine


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
