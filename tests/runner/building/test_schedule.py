"""Rates and weights at iterations whose value is known in closed form."""

import pytest

from segkd.runner.building.schedule import learning_rate


def curve(count, **options):
    return [learning_rate(i, **options) for i in range(count)]


@pytest.mark.parametrize("options, power", [({}, 0.9), ({"power": 1.0}, 1.0), ({"power": 2.0}, 2.0)])
def test_poly(options, power):
    rates = curve(11, lr=0.1, iterations=10, min_lr=0.02, **options)
    assert rates == pytest.approx([0.02 + 0.08 * (1 - i / 10) ** power for i in range(11)])


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
