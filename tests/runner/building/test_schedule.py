"""Rates and weights at iterations whose value is known in closed form."""

import pytest
import torch

from segkd.runner.building.schedule import learning_rate, weight_at


def curve(count, **options):
    return [learning_rate(i, **options) for i in range(count)]


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_poly(power):
    rates = curve(11, lr=0.1, iterations=10, power=power, min_lr=0.02)
    assert rates == pytest.approx([0.02 + 0.08 * (1 - i / 10) ** power for i in range(11)])


def test_poly_is_torchs_polynomial_schedule():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=20, power=0.9)
    for i in range(20):
        assert learning_rate(i, lr=0.01, iterations=20) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_cosine_constant_and_step():
    assert curve(5, lr=1.0, iterations=4, name="cosine", min_lr=0.5) == pytest.approx(
        [1.0, 0.75 + 0.25 * 2**-0.5, 0.75, 0.75 - 0.25 * 2**-0.5, 0.5]
    )
    assert curve(3, lr=0.3, iterations=2, name="constant") == [0.3] * 3
    assert curve(6, lr=1.0, iterations=6, name="step", drop_every=2) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert learning_rate(5, lr=1.0, iterations=6, name="step", drop_every=5, drop_factor=0.5) == 0.5


def test_warmup_multiplies_the_curve():
    plain = curve(8, lr=1.0, iterations=8)
    warm = curve(8, lr=1.0, iterations=8, warmup=4)
    assert warm == pytest.approx([rate * min(i / 4, 1) for i, rate in enumerate(plain)])


def test_lag_and_the_end():
    plain = curve(8, lr=1.0, iterations=8)
    assert curve(8, lr=1.0, iterations=8, lag=1) == [plain[0], *plain[:-1]]
    assert learning_rate(100, lr=1.0, iterations=8, min_lr=0.25) == 0.25


def test_learning_rate_errors():
    with pytest.raises(ValueError, match="step needs drop_every"):
        learning_rate(0, lr=1.0, iterations=8, name="step")
    with pytest.raises(ValueError, match="no curve called 'linear'; there are: poly"):
        learning_rate(0, lr=1.0, iterations=8, name="linear")
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        learning_rate(0, lr=1.0, iterations=0)


def test_gates_meet_without_overlap():
    after = [weight_at(2.0, i, after=500) for i in (0, 499, 500, 501, 502)]
    until = [weight_at(2.0, i, until=500) for i in (0, 499, 500, 501, 502)]
    assert after == [0, 0, 0, 2, 2]
    assert until == [2, 2, 2, 0, 0]
    assert [weight_at(1, i, after=2, until=4) for i in range(7)] == [0, 0, 0, 1, 1, 0, 0]
    assert weight_at(3, 0) == 3.0


def test_ramp_is_linear_and_clamped():
    ramp = {"start": 1.0, "end": 3.0, "over": [10, 20]}
    assert [weight_at(ramp, i) for i in (0, 10, 15, 20, 99)] == [1, 1, 2, 3, 3]
    assert weight_at({**ramp, "start": 3.0, "end": 1.0}, 15) == 2
    assert weight_at(ramp, 15, after=15) == 0


def test_ramp_in_steps():
    ramp = {"start": 0, "end": 1, "over": [0, 12], "hold": 4}
    assert [weight_at(ramp, i) for i in range(14)] == pytest.approx([0] * 4 + [1 / 3] * 4 + [2 / 3] * 4 + [1] * 2)
    shifted = {"start": 0, "end": 1, "over": [2, 14], "hold": 4}
    assert [weight_at(shifted, i + 2) for i in range(14)] == [weight_at(ramp, i) for i in range(14)]


@pytest.mark.parametrize(
    "ramp",
    [
        {"start": 0, "end": 1},
        {"start": 0, "end": 1, "over": [5, 5]},
        {"start": 0, "end": 1, "over": [0, 5], "hold": 0},
        {"start": 0, "end": 1, "over": [0, 5], "hodl": 2},
    ],
)
def test_ramp_errors(ramp):
    with pytest.raises(ValueError, match="weight: a ramp"):
        weight_at(ramp, 0)
