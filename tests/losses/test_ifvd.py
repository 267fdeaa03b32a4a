"""IFVD where the ignored label is a class, and its convolution between maps of other widths."""

from types import SimpleNamespace

import torch

from segkd.losses._task import Features, Task
from segkd.losses.ifvd import IFVD


def make_task(ignore_index=255, student=3):
    return Task(4, ignore_index, Features("student", {"head": student}, {}), Features("teacher", {"head": 5}, {}))


def prediction(channels, seed):
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(2, channels, 4, 5, generator=generator, dtype=torch.float64)
    return SimpleNamespace(features={"head": head}, align_corners=False)


def labels():
    return torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(2))


def test_the_ignored_label_may_be_a_class():
    student, teacher, target = prediction(3, 0), prediction(5, 1), labels()
    wanted = IFVD(make_task())(student, teacher, target.where(target != 0, 255))
    torch.testing.assert_close(IFVD(make_task(ignore_index=0))(student, teacher, target), wanted)


def test_the_convolution_is_only_there_where_widths_differ():
    student, teacher, target = prediction(3, 0), prediction(5, 1), labels()
    loss = IFVD(make_task(), align=True).double()
    mapped = SimpleNamespace(features={"head": loss.align(student.features["head"])}, align_corners=False)
    torch.testing.assert_close(loss(student, teacher, target), IFVD(make_task(student=5))(mapped, teacher, target))
    assert IFVD(make_task(student=5), align=True).align is None and IFVD(make_task()).align is None
