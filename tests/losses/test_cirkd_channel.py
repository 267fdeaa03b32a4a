"""CIRKDv2's channel terms: when its memory is filled, and the size of the maps that the memory was made for."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.cirkd_channel import CIRKDChannel

TASK = Task(3, 255, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))


def parts_of(loss, height=5, width=6):
    student, teacher = (prediction(head=torch.randn(2, c, height, width)) for c in (3, 5))
    return loss(student, teacher, None)


def make_loss():
    return CIRKDChannel(TASK, channel_memory=12, channel_contrast=7, channels_per_batch=8, pool=2)


def test_the_memory_takes_up_a_batch_in_training_only():
    loss = make_loss().eval()
    parts_of(loss)
    assert loss.memory.filled == [0]
    parts_of(loss.train())
    assert loss.memory.filled == loss.memory.pointers == [8]


def test_maps_of_another_size():
    loss = make_loss()
    parts_of(loss)
    with pytest.raises(ValueError, match="vectors of length 9, the teacher now gives 4"):
        parts_of(loss, 4, 4)
