"""What training changes, as one object."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from segkd.runner.building.graph import Graph
from segkd.runner.recipe.term import Term
from segkd.runner.training.state import TrainingState


class Adversarial(nn.Module):
    def __init__(self):
        super().__init__()
        self.adversary = nn.Linear(1, 1)

    def adversary_optimizer(self):
        return torch.optim.SGD(self.adversary.parameters())


def test_all_processes_walk_through_the_adversaries_in_one_order():
    """That of the terms: a set of their names would have another one in each process."""
    labels = [f"{letter}_term" for letter in "qwertyuiopasdfghjkl"]
    terms = [Term(loss="holistic", label=label) for label in labels]
    graph = Graph({"student": nn.Linear(1, 1)}, {}, terms, {label: Adversarial() for label in labels})
    recipe = SimpleNamespace(loop=SimpleNamespace(ema=None))
    assert list(TrainingState.begin(recipe, graph, [], Accelerator(cpu=True)).adversaries) == labels


def test_a_batch_norm_whose_statistics_are_not_finite_is_refused():
    """No loss shows them: a training step does not read them, and scoring does."""
    network = nn.BatchNorm2d(2)
    state = TrainingState(Graph({"student": network}, {}, [], {}), [], {}, {}, None, iteration=4)
    state.refuse_not_finite()
    network.running_var[0] = torch.inf
    with pytest.raises(FloatingPointError, match=r"student\.running_var is not finite after iteration 4"):
        state.refuse_not_finite()


def test_patience_counts_evaluations_however_far_they_lie_apart():
    """A resume may evaluate more often than the run did before."""
    state = TrainingState(Graph({"student": nn.Linear(1, 1)}, {}, [], {}), [], {}, {}, None)
    recipe = SimpleNamespace(evaluate=SimpleNamespace(patience=3, every=100))
    for iteration, miou in ((1000, 0.2), (2000, 0.3), (2100, 0.25), (2200, 0.3)):
        state.iteration = iteration
        state.note_scores({"miou": miou})
    assert (state.best_iteration, state.without_gain) == (2000, 2) and not state.has_stalled(recipe)
    state.note_scores({"miou": 0.1})
    assert state.has_stalled(recipe)
    state.unscored = True
    assert not state.has_stalled(recipe)
    state.note_scores({"miou": 0.4})
    assert state.without_gain == 0
