"""SKD's windows, its constant norm, and its precision."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.skd import SKD

TASK = Task(3, 255, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))


def feature(channels, seed, height=5, width=4, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("share, sides", [(0.5, (2, 2)), (0.75, (3, 3)), (1.0, (5, 4)), (0.01, (1, 1))])
def test_windows_as_a_share_of_the_map(share, sides):
    student, teacher = feature(3, 0), feature(5, 1)
    value = SKD(TASK, share=share)(prediction(head=student), prediction(head=teacher), None)
    pooled = (prediction(head=F.max_pool2d(x, sides, sides, ceil_mode=True)) for x in (student, teacher))
    torch.testing.assert_close(value, SKD(TASK, window=1)(*pooled, None))


def test_a_detached_norm_is_a_constant():
    student, teacher = feature(3, 0), feature(5, 1)
    norm = student.detach().norm(dim=1, keepdim=True)
    value = SKD(TASK, window=1, norm="detached")(prediction(head=student), prediction(head=teacher), None)
    (gradient,) = torch.autograd.grad(value, student)
    nodes = [(x / (n + 1e-8)).flatten(2) for x, n in ((student, norm), (teacher, teacher.norm(dim=1, keepdim=True)))]
    wanted = (nodes[0].mT @ nodes[0] - nodes[1].mT @ nodes[1]).square().mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, student)[0])


def test_float32_is_near_float64_where_the_square_is_expanded():
    student = F.relu(feature(16, 0, 24, 24, 1)).detach()
    teacher = student + 0.1 * feature(16, 1, 24, 24, 1).detach()
    task = Task(3, 255, Features("student", {"head": 16}, {}), Features("teacher", {"head": 16}, {}))
    exact, rounded = (
        SKD(task, window=1)(prediction(head=student.to(kind)), prediction(head=teacher.to(kind)), None).item()
        for kind in (torch.float64, torch.float32)
    )
    assert rounded == pytest.approx(exact, rel=1e-4)
