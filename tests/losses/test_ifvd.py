"""IFVD's convolution between maps of other widths."""

import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.ifvd import IFVD


def make_task(student=3):
    return Task(4, 255, Features("student", {"head": student}, {}), Features("teacher", {"head": 5}, {}))


def test_the_convolution_is_only_there_where_widths_differ():
    student, teacher = (prediction(head=torch.randn(2, c, 4, 5, dtype=torch.float64)) for c in (3, 5))
    target = torch.randint(3, (2, 4, 5))
    loss = IFVD(make_task(), align=True).double()
    mapped = prediction(head=loss.align(student.features["head"]))
    torch.testing.assert_close(loss(student, teacher, target), IFVD(make_task(student=5))(mapped, teacher, target))
    assert IFVD(make_task(student=5), align=True).align is None and IFVD(make_task()).align is None
