"""CIRKDv2 against its four losses one by one, behind its own block."""

from types import SimpleNamespace

import pytest
import torch

from segkd.losses._task import Features, Task
from segkd.losses.cirkd_channel import CIRKDChannel
from segkd.losses.cirkd_memory import CIRKDMemory
from segkd.losses.cirkd_minibatch import CIRKDMinibatch
from segkd.losses.cirkd_v2 import CIRKDv2
from segkd.losses.fitnet import FitNet

SIZES = {"pixel_memory": 40, "region_memory": 5, "channel_memory": 30}
CONTRAST = {"pixel_contrast": 6, "region_contrast": 3, "channel_contrast": 9}
MEMORIES, CHANNELS = ["memory_pixel", "memory_region"], ["minibatch_channel", "memory_channel", "channel_mse"]
PARTS = ["fitnet", "minibatch_pixel", *MEMORIES, *CHANNELS]


def make_task():
    return Task(3, 255, Features("student", {"head": 4}, {}), Features("teacher", {"head": 6}, {}))


def predictions(seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, c, 8, 6, generator=generator) for c in (4, 6)]
    target = torch.randint(3, (2, 16, 12), generator=generator)
    student, teacher = (SimpleNamespace(features={"head": x}, align_corners=False) for x in maps)
    return student, teacher, target


def make_loss(**options):
    torch.manual_seed(0)
    return CIRKDv2(make_task(), **SIZES, **CONTRAST, **options)


@pytest.mark.parametrize("gcn", [True, False])
def test_parts_are_those_of_the_four_losses(gcn):
    student, teacher, target = predictions()
    weights = dict(zip(PARTS, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), strict=True))
    loss = make_loss(gcn=gcn, contrast_temperature=0.2, **weights)
    alone = {
        "fitnet": FitNet(make_task()),
        "minibatch": CIRKDMinibatch(make_task(), temperature=0.2),
        "memory": CIRKDMemory(
            make_task(), pixel=3.0, region=4.0, contrast_temperature=0.2, pixel_memory=40, region_memory=5,
            pixel_contrast=6, region_contrast=3,
        ),
        "channel": CIRKDChannel(
            make_task(), minibatch=5.0, memory=6.0, mse=7.0, contrast_temperature=0.2, channel_memory=30,
            channel_contrast=9,
        ),
    }  # fmt: skip
    for name, part in alone.items():
        part.load_state_dict(getattr(loss, name).state_dict())
    torch.manual_seed(5)
    parts = loss(student, teacher, target)
    assert list(parts) == PARTS
    if gcn:
        student.features["head"] = loss.gcn(student.features["head"])
    torch.manual_seed(5)
    memory = alone["memory"](student, teacher, target)
    channel = alone["channel"](student, teacher, target)
    wanted = [
        alone["fitnet"](student, teacher, target), 2 * alone["minibatch"](student, teacher, target),
        *memory.values(), *channel.values(),
    ]  # fmt: skip
    torch.testing.assert_close(list(parts.values()), wanted)


@pytest.mark.parametrize("absent", PARTS)
def test_a_part_of_weight_0_leaves_no_idle_parameters(absent):
    loss = make_loss(**{absent: 0.0})
    parts = loss(*predictions())
    assert list(parts) == [name for name in PARTS if name != absent]
    sum(parts.values()).backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())


def test_all_pixels_ignored_is_finite():
    student, teacher, target = predictions()
    student.features["head"].requires_grad_(True)
    parts = make_loss()(student, teacher, torch.full_like(target, 255))
    sum(parts.values()).backward()
    assert parts["memory_pixel"].item() == 0 and student.features["head"].grad.isfinite().all()


def test_a_loaded_loss_goes_on_where_the_saved_one_was(tmp_path):
    loss = make_loss()
    loss(*predictions())
    torch.save(loss.state_dict(), tmp_path / "state.pt")
    other = make_loss()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    values = []
    for one in (loss, other):
        torch.manual_seed(3)
        values.append(one(*predictions(1)))
    assert values[0] == values[1]


def test_errors():
    with pytest.raises(ValueError, match="cirkd_v2: the weights must not be negative"):
        make_loss(fitnet=-1.0)
    with pytest.raises(ValueError, match="cirkd_v2: the weights must not be negative, nor all 0"):
        make_loss(**dict.fromkeys(PARTS, 0.0))
    with pytest.raises(ValueError, match="cirkd_minibatch: temperature must be above 0, got 0"):
        make_loss(contrast_temperature=0)
    with pytest.raises(ValueError, match="a teacher is needed"):
        CIRKDv2(Task(3, 255, Features("student", {"head": 4}, {})))
