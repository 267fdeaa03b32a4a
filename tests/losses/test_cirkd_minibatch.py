"""CIRKD's mini-batch term: single images and pooled maps."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.cirkd_minibatch import CIRKDMinibatch

TASK = Task(3, 255, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))


def value_of(maps, **options):
    student, teacher = (prediction(head=x) for x in maps)
    return CIRKDMinibatch(TASK, **options)(student, teacher, None)


def random_maps(batch=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, channels, 6, 5, generator=generator, dtype=torch.float64) for channels in (3, 5)]


def test_one_image_is_warned_about_and_compared_with_itself():
    maps = random_maps(1)
    with pytest.warns(UserWarning, match="one image per process"):
        value = value_of(maps)
    s, t = (F.normalize(x[0].flatten(1).T, dim=1) for x in maps)  # (N, C)
    wanted = F.kl_div((s @ s.T / 0.1).log_softmax(1), (t @ t.T / 0.1).softmax(1), reduction="batchmean")
    torch.testing.assert_close(value, wanted)


def test_maps_are_pooled_from_a_size_on():
    maps = random_maps()
    pooled = [F.avg_pool2d(x, 2, 2, ceil_mode=True) for x in maps]
    assert value_of(maps, pool=2, pool_from=(6, 5)) == value_of(pooled)
    assert value_of(maps, pool=2, pool_from=(6, 6)) == value_of(maps, pool=1, pool_from=(1, 1)) == value_of(maps)
