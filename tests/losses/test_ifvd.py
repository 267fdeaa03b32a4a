"""IFVD's convolution between maps of other widths."""

from types import SimpleNamespace

import torch

from segkd.losses._task import Features, Task
from segkd.losses.ifvd import IFVD


def make_task(student=3):
    return Task(4, 255, Features("student", {"head": student}, {}), Features("teacher", {"head": 5}, {}))


def prediction(channels, seed):
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(2, channels, 4, 5, generator=generator, dtype=torch.float64)
    return SimpleNamespace(features={"head": head}, align_corners=False)


def test_the_convolution_is_only_there_where_widths_differ():
    student, teacher, target = prediction(3, 0), prediction(5, 1), torch.randint(3, (2, 4, 5))
    loss = IFVD(make_task(), align=True).double()
    mapped = SimpleNamespace(features={"head": loss.align(student.features["head"])}, align_corners=False)
    torch.testing.assert_close(loss(student, teacher, target), IFVD(make_task(student=5))(mapped, teacher, target))
    assert IFVD(make_task(student=5), align=True).align is None and IFVD(make_task()).align is None
