"""PHI-S: features of all teachers on one scale, statistics of all batches and processes, and when they stop."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses import _standardization
from segkd.losses._standardization import Standardization
from segkd.losses._task import Features, Task
from segkd.losses.phi_s import PhiS

TASK = Task(3, 255, Features("student", {"stage4": 4}, {}), Features("teacher", {"stage4": 8}, {}))


def random_map(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, 8, dtype=torch.float64, generator=generator)
    return 5 + torch.einsum("dc,bchw->bdhw", mixing, torch.randn(*shape, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("rotate", [True, False])
def test_channels_have_mean_0_and_one_variance(rotate):
    features, scale = random_map(0, 3, 8, 6, 7), Standardization(8, rotate, 100)
    scale.update(features)
    rows = scale(features).movedim(1, 3).flatten(0, 2)
    torch.testing.assert_close(rows.mean(0), torch.zeros(8).double())
    variances = rows.var(0)
    torch.testing.assert_close(variances if rotate else variances.mean(), torch.ones(8 if rotate else ()).double())


def test_a_teacher_of_any_scale_weighs_the_same():
    student, teacher = torch.randn(2, 4, 5, 6).double(), random_map(0, 2, 8, 5, 6)
    values = []
    for goal in (teacher, 900 * teacher - 40):
        torch.manual_seed(0)
        values.append(PhiS(TASK).double()(prediction(stage4=student), prediction(stage4=goal), None))
    torch.testing.assert_close(*values)


def test_processes_have_one_mean_and_covariance(monkeypatch):
    """A process's sum over all is made of what the other one has added, in the same order, before it."""
    maps, told = (random_map(0, 2, 8, 3, 4), random_map(1, 1, 8, 4, 5)), []
    whole = torch.cat([x.flatten(2).movedim(1, 0).flatten(1) for x in maps], 1)  # (C, n)
    rows = [x.movedim(1, 3).flatten(0, 2) for x in maps]
    mean = whole.mean(1)
    of_other = [torch.tensor(len(rows[1])), rows[1].sum(0), (rows[1] - mean).T @ (rows[1] - mean)]
    monkeypatch.setattr(_standardization, "summed", lambda x: told.append(x) or x + of_other[len(told) - 1])
    scale = Standardization(8, True, 100)
    scale.update(maps[0])
    torch.testing.assert_close(scale.state["mean"], mean)
    torch.testing.assert_close(scale.covariance, whole.cov())


def test_what_is_not_counted_and_what_comes_after_the_end_changes_nothing():
    features, scale, other = random_map(0, 2, 8, 3, 4), Standardization(8, True, 1), Standardization(8, True, 1)
    counted = torch.ones(2, 3, 4, dtype=torch.bool)
    counted[1, :, 2:] = False
    damaged = features.where(counted[:, None], torch.nan)
    scale.update(damaged, counted)
    other.update(features, counted)
    torch.testing.assert_close(scale.state, other.state)
    scale.update(features, torch.zeros_like(counted))
    torch.testing.assert_close(scale.state, other.state)
    for seed in range(31):
        scale.update(random_map(seed, 1, 8, 2, 2))
    before = dict(scale.state)
    scale.update(features)
    torch.testing.assert_close(scale.state, before, rtol=0, atol=0)


def test_constant_features_stay_finite():
    loss, constant = PhiS(TASK), prediction(stage4=torch.full((2, 8, 3, 4), 2.0))
    loss(prediction(stage4=torch.randn(2, 4, 3, 4)), constant, None)
    assert all(x.isfinite().all() for x in loss.scale.state.values())
    assert loss(prediction(stage4=torch.randn(2, 4, 3, 4)), constant, None).isfinite()
