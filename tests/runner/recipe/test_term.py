"""When a term is active, and with which weight."""

import pydantic
import pytest

from segkd.runner.recipe.term import Ramp, Term


def weights(iterations, weight=1.0, **gates):
    term = Term(loss="kl", weight=weight, **gates)
    return [term.weight_at(i) for i in iterations]


def test_gates_meet_without_overlap():
    around = (0, 499, 500, 501, 502)
    assert weights(around, 2.0, after=500) == [0, 0, 0, 2, 2]
    assert weights(around, 2.0, until=500) == [2, 2, 2, 0, 0]
    assert weights(range(7), after=2, until=4) == [0, 0, 0, 1, 1, 0, 0]


def test_a_ramp_is_linear_and_clamped():
    ramp = Ramp(start=1.0, end=3.0, over=(10, 20))
    assert weights((0, 10, 15, 20, 99), ramp) == [1, 1, 2, 3, 3]
    assert Ramp(start=3.0, end=1.0, over=(10, 20)).at(15) == 2
    assert weights([15], ramp, after=15) == [0]


def test_a_ramp_in_steps():
    ramp = Ramp(start=0.0, end=1.0, over=(0, 12), hold=4)
    values = [ramp.at(i) for i in range(14)]
    assert values == pytest.approx([0] * 4 + [1 / 3] * 4 + [2 / 3] * 4 + [1] * 2)
    assert [Ramp(start=0.0, end=1.0, over=(2, 14), hold=4).at(i + 2) for i in range(14)] == values
    # the end is there at its iteration, whatever hold divides
    assert [Ramp(start=1.0, end=0.0, over=(0, 10), hold=3).at(i) for i in (8, 9, 10, 11)] == pytest.approx(
        [0.4, 0.1, 0, 0]
    )


@pytest.mark.parametrize("wrong", [{"over": (5, 5)}, {"over": (0, 5), "hold": 0}, {"over": (0, 5), "hodl": 2}, {}])
def test_ramps_that_are_none(wrong):
    with pytest.raises(pydantic.ValidationError):
        Ramp(start=0.0, end=1.0, **wrong)


@pytest.mark.parametrize("weight, ever, comes", [
    (0.0, False, False), (1.0, True, False), (Ramp(start=0.0, end=0.0, over=(0, 4)), False, True),
    (Ramp(start=0.0, end=1.0, over=(0, 4)), True, True),
])  # fmt: skip
def test_terms_know_whether_they_are_ever_active(weight, ever, comes):
    term = Term(loss="kl", weight=weight)
    assert (term.is_ever_active, term.comes_and_goes) == (ever, comes)
    assert Term(loss="kl", weight=weight, until=3).comes_and_goes


@pytest.mark.parametrize("term", [
    {}, {"until": 7}, {"after": 3, "until": 7}, {"after": 12},
    *({"weight": Ramp(start=start, end=end, over=over, hold=hold), **gates}
      for start, end in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0))
      for over in ((0, 6), (3, 9), (0, 7)) for hold in (1, 3) for gates in ({}, {"until": 8}, {"after": 4})),
])  # fmt: skip
def test_a_term_falls_silent_at_no_other_iteration(term):
    term = Term(loss="kl", **term)
    silent = [i for i in range(20) if not term.weight_at(i)]
    begins = {i for i in silent if i - 1 not in silent}
    assert begins <= {0} | term.may_fall_silent_at()


@pytest.mark.parametrize("iterations", [1, 4, 20])
@pytest.mark.parametrize("term", [
    {}, {"weight": 0.0}, {"after": 3}, {"after": 19}, {"after": 2, "until": 5}, {"until": 0},
    *({"weight": Ramp(start=start, end=end, over=over, hold=hold), **gates}
      for start, end in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)) for over in ((0, 6), (12, 30)) for hold in (1, 4)
      for gates in ({}, {"after": 3})),
])  # fmt: skip
def test_a_term_knows_whether_a_training_ever_sees_it(term, iterations):
    term = Term(loss="kl", **term)
    assert term.is_active_in(iterations) == any(term.weight_at(i) for i in range(iterations))
