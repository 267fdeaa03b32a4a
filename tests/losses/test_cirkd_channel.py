"""CIRKDv2's channel terms against a plain transcription."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.cirkd_channel import CIRKDChannel

TASK = Task(3, 255, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))


def make_loss(**options):
    torch.manual_seed(0)
    sizes = {"channel_memory": 12, "channel_contrast": 7, "channels_per_batch": 8, "pool": 2}
    loss = CIRKDChannel(TASK, **(sizes | options)).double()
    loss.draw = lambda count: torch.arange(count).flip(0)
    if loss.memory is not None:
        loss.memory.dtype = torch.float64
        loss.memory.draw = lambda: torch.arange(loss.memory.slots).flip(0)
    return loss


def feature(channels, seed, height=5, width=6, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()


def prediction(head, align_corners=False):
    return SimpleNamespace(logits=None, align_corners=align_corners, aux=None, features={"head": head})


def kl_rows(student, teacher):
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="sum") / len(student)


def expected(loss, student, teacher):
    """The unweighted parts and the memory afterwards, for a memory not yet used."""
    s, t = (F.avg_pool2d(x, 2, 2, ceil_mode=True) for x in (student, teacher))
    s, t = (x.flatten(2) / x.flatten(2).norm(dim=2, keepdim=True) for x in (loss.head(s), t))
    temperature = loss.contrast_temperature
    pairs = [kl_rows(s[i] @ s[j].T / temperature, t[i] @ t[j].T / temperature) for i in range(2) for j in range(2)]
    loss.memory.prepare(9, torch.device("cpu"))
    ring = loss.memory.vectors[0].clone()
    ring[:8] = t.flatten(0, 1).flip(0)[:8]
    scale = loss.temperature * temperature
    keys = ring.flip(0)[:7]
    against = kl_rows(*(x.flatten(0, 1) @ keys.T / scale for x in (s, t)))
    parts = {"minibatch": sum(pairs) / 4, "memory": loss.temperature**2 * against, "mse": (s - t).square().mean()}
    return parts, ring


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_value_and_memory(temperature):
    loss = make_loss(temperature=temperature, minibatch=2.0, memory=0.5, mse=3.0)
    student, teacher = feature(3, 0), feature(5, 1)
    wanted, ring = expected(loss, student, teacher)
    parts = loss(prediction(student), prediction(teacher), None)
    weights = {"minibatch": 2.0, "memory": 0.5, "mse": 3.0}
    torch.testing.assert_close(parts, {name: weights[name] * part for name, part in wanted.items()})
    torch.testing.assert_close(loss.memory.vectors[0], ring.detach())
    assert loss.memory.pointers == [8]


def test_parts_of_weight_0_are_left_out():
    student, teacher = prediction(feature(3, 0)), prediction(feature(5, 1))
    loss = make_loss(memory=0.0, mse=0.0)
    assert loss.memory is None and list(loss(student, teacher, None)) == ["minibatch"]
    assert list(make_loss(minibatch=0.0)(student, teacher, None)) == ["memory", "mse"]


def test_student_is_resized_to_the_teacher():
    student, teacher = feature(3, 0, 3, 3), feature(5, 1)
    resized = F.interpolate(student, size=(5, 6), mode="bilinear", align_corners=True)
    parts = make_loss()(prediction(student, True), prediction(teacher), None)
    torch.testing.assert_close(parts, make_loss()(prediction(resized), prediction(teacher), None))


def test_gradcheck():
    loss = make_loss(contrast_temperature=0.5, mse=1.0).eval()
    student, teacher = feature(3, 0, 4, 4), feature(5, 1, 4, 4)
    assert torch.autograd.gradcheck(lambda s: sum(loss(prediction(s), prediction(teacher), None).values()), student)


def test_constant_features_and_autocast_are_finite():
    torch.manual_seed(0)
    loss = CIRKDChannel(TASK, channel_memory=20, channel_contrast=8, half_memory=True, filled_only=True)
    student = torch.ones(1, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = loss(prediction(student), prediction(feature(5, 1, 8, 8, 1).detach().bfloat16()), None)
    sum(parts.values()).backward()
    assert all(part.dtype == torch.float32 and part.isfinite() for part in parts.values())
    assert student.grad.isfinite().all()


def test_errors():
    with pytest.raises(ValueError, match="cirkd_channel: temperatures must be above 0"):
        make_loss(contrast_temperature=0)
    with pytest.raises(ValueError, match=r"nor all 0; got \(0, 0, 0\)"):
        make_loss(minibatch=0, memory=0, mse=0)
    loss = make_loss()
    loss(prediction(feature(3, 0)), prediction(feature(5, 1)), None)
    with pytest.raises(ValueError, match="vectors of length 9, the teacher now gives 4"):
        loss(prediction(feature(3, 0, 4, 4)), prediction(feature(5, 1, 4, 4)), None)
    with pytest.raises(ValueError, match="cirkd_channel: a teacher is needed"):
        CIRKDChannel(Task(3, 255, Features("student", {"head": 3}, {})))
