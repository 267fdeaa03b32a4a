"""What training changes, as one object."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from segkd.runner.building.graph import Graph
from segkd.runner.recipe.term import Term
from segkd.runner.run_folder.folder import RunFolder
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


def test_a_batch_norm_whose_statistics_are_not_finite_is_not_saved(tmp_path):
    """No loss shows them: a training step does not read them, and scoring does."""
    network, run = nn.BatchNorm2d(2), RunFolder(tmp_path)
    state = TrainingState(Graph({"student": network}, {}, [], {}), [], {}, {}, None, iteration=3)
    state.save(run, keep_last=1)
    network.running_var[0], state.iteration = torch.inf, 4
    with pytest.raises(FloatingPointError, match=r"student\.running_var is not finite after iteration 4"):
        state.save(run, keep_last=1)
    assert [one.path.name for one in run.complete_checkpoints()] == ["step-00000003"]
