"""Masked generation: the draws of its mask, and the memory it takes."""

from types import SimpleNamespace

import pytest
import torch

from segkd.losses._task import Features, Task
from segkd.losses.mgd import MGD


def make_task(student=3, teacher=4):
    owners = (Features(owner, {"stage4": c}, {}) for owner, c in (("student", student), ("teacher", teacher)))
    return Task(3, 255, *owners)


def prediction(seed=0, channels=4, size=(4, 5), batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64).to(dtype)
    return SimpleNamespace(logits=None, aux=None, align_corners=False, features={"stage4": feature.requires_grad_()})


def test_one_draw_hides_a_pixel_in_all_channels():
    loss = MGD(make_task(4), masked=0.6).double()
    features, goal = (prediction(seed).features["stage4"] for seed in (0, 1))
    uniform = torch.tensor([0.39, 0.41]).repeat(2, 1, 4, 3)[..., :5]
    hidden = torch.arange(5) % 2 == 1
    features.data[..., hidden] = 7.0
    (gradient,) = torch.autograd.grad(loss.error(features, goal, uniform), features)
    assert not gradient[..., hidden].any() and gradient[..., ~hidden].all()


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
