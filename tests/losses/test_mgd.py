"""Masked generation against its formula with the mask in hand."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.mgd import MGD

literal = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/transcriptions_rmrkd.py"))["mgd"]


def make_task(student=3, teacher=4):
    owners = (Features(owner, {"stage4": c}, {}) for owner, c in (("student", student), ("teacher", teacher)))
    return Task(3, 255, *owners)


def prediction(seed=0, channels=4, size=(4, 5), batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64).to(dtype)
    return SimpleNamespace(logits=None, aux=None, align_corners=False, features={"stage4": feature.requires_grad_()})


@pytest.mark.parametrize("batch, student_channels", [(2, 3), (1, 4)])
@pytest.mark.parametrize("masked", [0.0, 0.5, 1.0])
def test_value_and_gradients_are_the_literal_ones(batch, student_channels, masked):
    loss = MGD(make_task(student_channels), masked=masked).double()
    student, teacher = prediction(0, student_channels, batch=batch), prediction(1, batch=batch)
    leaves = [student.features["stage4"], *loss.parameters()]
    values = []
    for f in (loss, lambda *given: literal(loss, *given)):
        torch.manual_seed(3)
        values.append(f(student, teacher, None))
    torch.testing.assert_close(*values, rtol=1e-10, atol=0)
    for ours, wanted in zip(*(torch.autograd.grad(value, leaves) for value in values), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


def test_one_draw_hides_a_pixel_in_all_channels():
    loss = MGD(make_task(4), masked=0.6).double()
    features, goal = (prediction(seed).features["stage4"] for seed in (0, 1))
    uniform = torch.tensor([0.39, 0.41]).repeat(2, 1, 4, 3)[..., :5]
    hidden = torch.arange(5) % 2 == 1
    features.data[..., hidden] = 7.0
    (gradient,) = torch.autograd.grad(loss.error(features, goal, uniform), features)
    assert not gradient[..., hidden].any() and gradient[..., ~hidden].all()


def test_closed_form_with_an_identity_in_place_of_the_convolutions():
    loss = MGD(make_task(4), masked=0.0).double()
    with torch.no_grad():
        for conv in loss.generation[::2]:
            torch.nn.init.dirac_(conv.weight)
            conv.bias.zero_()
    student, teacher = prediction(0), prediction(1)
    wanted = ((student.features["stage4"].relu() - teacher.features["stage4"]) ** 2).sum() / 2
    torch.testing.assert_close(loss(student, teacher, None), wanted)


def test_draws_follow_the_global_generator_and_mask_the_share_asked_for():
    loss = MGD(make_task(4))
    student, teacher = prediction(0, dtype=torch.float32), prediction(1, dtype=torch.float32)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(loss(student, teacher, None).item())
    assert values[0] == values[1] != values[2]
    seen = []
    loss.generation.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    large = prediction(0, 4, (100, 100), 1, torch.float32)
    loss(large, large, None)
    assert (seen[0] == 0).double().mean().item() == pytest.approx(0.75, abs=0.02)


def test_gradcheck_and_no_gradient_for_the_teacher():
    loss = MGD(make_task(), masked=0.5).double()
    student, teacher = prediction(0, 3), prediction(1)
    uniform = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0))

    def value(feature):
        aligned, goal = loss.pair.maps(
            SimpleNamespace(align_corners=False, features={"stage4": feature}), teacher, loss.align
        )
        return loss.error(aligned, goal, uniform)

    assert torch.autograd.gradcheck(value, student.features["stage4"])
    loss(student, teacher, None).backward()
    assert teacher.features["stage4"].grad is None
    assert all(p.grad is not None for p in loss.parameters())


def test_three_maps_are_kept_for_backward():
    loss = MGD(make_task())
    student, teacher = prediction(0, 3, dtype=torch.float32), prediction(1, dtype=torch.float32)
    size = teacher.features["stage4"].numel()
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(student, teacher, None)
    # what each of the two convolutions reads, and the difference
    assert sum(tensor.numel() == size for tensor in kept.values()) == 3


def test_inputs_are_left_as_they_are():
    loss = MGD(make_task(4), masked=0.5).double()
    student, teacher = prediction(0), prediction(1)
    before = [p.features["stage4"].detach().clone() for p in (student, teacher)]
    loss(student, teacher, None).backward()
    for copy, p in zip(before, (student, teacher), strict=True):
        assert torch.equal(copy, p.features["stage4"])


def test_the_student_is_resized_to_the_teacher():
    loss = MGD(make_task(), masked=0.0).double()
    student, teacher = prediction(0, 3, (3, 4)), prediction(1, 4, (5, 7))
    enlarged = F.interpolate(student.features["stage4"], size=(5, 7), mode="bilinear", align_corners=False)
    wanted = loss(SimpleNamespace(align_corners=False, features={"stage4": enlarged}), teacher, None)
    torch.testing.assert_close(loss(student, teacher, None), wanted)


def test_autocast_stays_near_float32():
    loss = MGD(make_task(), masked=0.0)
    student, teacher = prediction(0, 3, dtype=torch.float32), prediction(1, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, None)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student, teacher, None), rtol=0.02, atol=0)


def test_errors():
    with pytest.raises(ValueError, match="mgd: masked is a share from 0 to 1, got 75"):
        MGD(make_task(), masked=75)
    with pytest.raises(ValueError, match="mgd: a teacher is needed"):
        MGD(Task(3, 255, Features("student", {"stage4": 4}, {})))
