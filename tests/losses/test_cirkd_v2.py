"""CIRKDv2's parts: their names, weights and temperatures. See also test_every_loss.py."""

import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.cirkd_v2 import CIRKDv2

SIZES = {"pixel_memory": 40, "region_memory": 5, "channel_memory": 30}
CONTRAST = {"pixel_contrast": 6, "region_contrast": 3, "channel_contrast": 9}
MEMORIES, CHANNELS = ["memory_pixel", "memory_region"], ["minibatch_channel", "memory_channel", "channel_mse"]
PARTS = ["fitnet", "minibatch_pixel", *MEMORIES, *CHANNELS]


def make_loss(**options):
    torch.manual_seed(0)
    task = Task(3, 255, Features("student", {"head": 4}, {}), Features("teacher", {"head": 6}, {}))
    return CIRKDv2(task, **SIZES, **CONTRAST, **options)


def parts_of(loss):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, c, 8, 6, generator=generator) for c in (4, 6)]
    target = torch.randint(3, (2, 16, 12), generator=generator)
    student, teacher = (prediction(head=x) for x in maps)
    return loss(student, teacher, target)


def test_each_part_has_its_weight():
    ones = parts_of(make_loss(**dict.fromkeys(PARTS, 1.0)))
    assert list(ones) == PARTS
    weighted = parts_of(make_loss(**dict(zip(PARTS, range(1, 8), strict=True))))
    torch.testing.assert_close(weighted, {name: weight * ones[name] for weight, name in enumerate(PARTS, 1)})


def test_temperatures_reach_the_parts():
    loss = make_loss(temperature=2.0, contrast_temperature=0.2)
    assert loss.minibatch.temperature == 0.2
    for part in (loss.memory, loss.channel):
        assert (part.temperature, part.contrast_temperature) == (2.0, 0.2)
