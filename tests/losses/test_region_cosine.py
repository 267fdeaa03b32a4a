"""The cosine form between equal networks, and its embedding in training."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.region_cosine import RegionCosine

TASK = Task(4, 255, *(Features(owner, {"stage4": 6}, {}) for owner in ("student", "teacher")))


def make_loss():
    torch.manual_seed(0)
    return RegionCosine(TASK).double()


def random_prediction(seed):
    generator = torch.Generator().manual_seed(seed)
    return prediction(stage4=torch.randn(2, 6, 4, 5, generator=generator, dtype=torch.float64).requires_grad_())


def labels():
    target = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(0))  # class 3 is absent
    target[:, 0, :2] = 255
    return target


def test_equal_networks_leave_the_absent_classes_only():
    both = random_prediction(0)
    # 3 of 4 classes have a centre, whose cosine with itself is 1
    assert make_loss()(both, both, labels()).item() == pytest.approx(1 - 3 / 4, abs=1e-12)


def test_the_embedding_sees_both_maps_and_batch_norm_twice():
    loss, student, teacher = make_loss(), random_prediction(0), random_prediction(1)
    loss(student, teacher, labels()).backward()
    assert loss.embed[1].num_batches_tracked == 2
    assert all(p.grad is not None for p in loss.parameters())
    assert teacher.features["stage4"].grad is None
    loss.eval()(student, teacher, labels())
    assert loss.embed[1].num_batches_tracked == 2
