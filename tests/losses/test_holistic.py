"""SKD's adversarial loss: its formulas, the discriminator's layers, and who gets which gradient."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._discriminator import Discriminator, SelfAttention, SpectralConv
from segkd.losses._task import Features, Task
from segkd.losses.holistic import Holistic, discriminator_loss, generator_loss

TASK = Task(3, 255, Features("student", {}, {}), Features("teacher", {}, {}))


def random_prediction(seed, height=64, width=80):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 3, height, width, generator=generator).requires_grad_()
    return prediction(logits)


def test_formulas():
    student, teacher = torch.tensor([0.5, -2.0, 3.0]), torch.tensor([1.5, -1.0])
    assert generator_loss(student).item() == pytest.approx(-0.5)
    assert discriminator_loss(student, teacher).item() == pytest.approx((0 + 2) / 2 + (1.5 + 0 + 4) / 3)
    assert discriminator_loss(student, teacher, "wasserstein").item() == pytest.approx(0.5 - 0.25)


def test_spectral_convolution_tends_to_the_largest_singular_value():
    torch.manual_seed(0)
    conv = SpectralConv(3, 6, 4, 2, 1).double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    u = conv.u.clone()
    first = conv(x)
    matrix = conv.weight.flatten(1)
    v = F.normalize(matrix.T @ u, dim=0)
    sigma = F.normalize(matrix @ v, dim=0) @ (matrix @ v)
    torch.testing.assert_close(first, F.conv2d(x, conv.weight / sigma, conv.bias, 2, 1))
    for _ in range(300):
        conv(x)
    conv.eval()
    frozen = conv.u.clone()
    wanted = F.conv2d(x, conv.weight / torch.linalg.svdvals(matrix)[0], conv.bias, 2, 1)
    torch.testing.assert_close(conv(x), wanted)
    assert torch.equal(conv.u, frozen)
    weight = conv.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(conv, {"weight": w}, (x,)), weight)


def test_self_attention_starts_as_the_identity():
    attention = SelfAttention(16)
    x = torch.randn(2, 16, 3, 4)
    assert torch.equal(attention(x), x)
    torch.nn.init.ones_(attention.gamma)
    q, k, v = (part(x).flatten(2) for part in (attention.query, attention.key, attention.value))
    seen = v @ (q.mT @ k).softmax(2).mT
    torch.testing.assert_close(attention(x), x + seen.view_as(x))


@pytest.mark.parametrize("height, width, scores", [(64, 64, (1, 1)), (80, 96, (2, 3)), (95, 64, (2, 1))])
def test_one_score_per_window(height, width, scores):
    assert Discriminator(3)(torch.randn(1, 3, height, width)).shape == (1, 1, *scores)


def test_each_side_gets_its_own_gradients_and_the_networks_optimizer_sees_no_parameter():
    loss, student, teacher = Holistic(TASK), random_prediction(0), random_prediction(1)
    assert list(loss.parameters()) and not any(parameter.requires_grad for parameter in loss.parameters())
    loss.adversary_loss(student, teacher).backward()
    assert student.logits.grad is None and teacher.logits.grad is None
    assert all(parameter.grad is not None for parameter in loss.adversary.parameters())
    loss.zero_grad()
    loss(student, teacher, None).backward()
    assert student.logits.grad.any()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in loss.parameters())


def test_a_few_steps_tell_the_maps_apart():
    torch.manual_seed(0)
    loss, student, teacher = Holistic(TASK, adversary_weight=1.0), random_prediction(0), random_prediction(1)
    teacher.logits = (3 * teacher.logits + 1).detach()
    optimizer = loss.adversary_optimizer()
    assert optimizer.defaults["lr"] == 4e-4 and optimizer.defaults["betas"] == (0.9, 0.99)
    values = []
    for _ in range(6):
        value = loss.adversary_loss(student, teacher)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(value.item())
    assert values[-1] < values[0] - 0.1


def test_maps_smaller_than_a_window():
    with pytest.raises(ValueError, match="the teacher's scores have 63x80 pixels, the discriminator needs 64x64"):
        Holistic(TASK)(random_prediction(0, 63), random_prediction(1, 63), None)
