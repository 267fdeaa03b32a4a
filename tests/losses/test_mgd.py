"""Masked generation: the draws of its mask, and the memory it takes."""

import pytest
import torch
from recorded.arrays import prediction, task_of

from segkd.losses.mgd import MGD


def feature(seed, channels=4, batch=2, size=(4, 5)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *size, generator=generator).requires_grad_()


def test_one_draw_hides_a_pixel_in_all_channels():
    features, goal = feature(0), feature(1)
    loss = MGD(task_of(prediction(stage4=features), prediction(stage4=goal)), masked=0.6)
    uniform = torch.tensor([0.39, 0.41]).repeat(2, 1, 4, 3)[..., :5]
    hidden = torch.arange(5) % 2 == 1
    features.data[..., hidden] = 7.0
    (gradient,) = torch.autograd.grad(loss.error(features, goal, uniform), features)
    assert not gradient[..., hidden].any() and gradient[..., ~hidden].all()


def test_draws_follow_the_global_generator_and_mask_the_share_asked_for():
    student, teacher = (prediction(stage4=feature(seed)) for seed in (0, 1))
    loss = MGD(task_of(student, teacher))
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(loss(student, teacher, None).item())
    assert values[0] == values[1] != values[2]
    seen = []
    loss.generation.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    large = prediction(stage4=feature(0, batch=1, size=(100, 100)))
    loss(large, large, None)
    assert (seen[0] == 0).double().mean().item() == pytest.approx(0.75, abs=0.02)


def test_three_maps_are_kept_for_backward():
    student, teacher = prediction(stage4=feature(0, 3)), prediction(stage4=feature(1))
    loss = MGD(task_of(student, teacher))
    size = teacher.features["stage4"].numel()
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(student, teacher, None)
    # what each of the two convolutions reads, and the difference
    assert sum(tensor.numel() == size for tensor in kept.values()) == 3
