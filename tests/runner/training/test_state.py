"""What training changes, as one object."""

from types import SimpleNamespace

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
