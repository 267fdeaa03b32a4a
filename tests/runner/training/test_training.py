"""What trainings side by side agree on in several processes, and what counts as training."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segkd.runner.building.graph import Graph
from segkd.runner.training.state import TrainingState
from segkd.runner.training.training import Training, failing_alone


@pytest.mark.parametrize("error, processes, goes_on", [
    (FloatingPointError("the loss is nan"), 1, True),
    (ValueError("no memory is left"), 1, True),
    (FloatingPointError("the loss is nan"), 2, True),
    (ValueError("no memory is left"), 2, False),
])  # fmt: skip
def test_the_others_go_on_where_every_process_has_met_the_failure(error, processes, goes_on):
    tracking = SimpleNamespace(accelerator=SimpleNamespace(num_processes=processes))
    recipe = SimpleNamespace(name="kl")
    both = [SimpleNamespace(recipe=recipe, tracking=tracking, failure=None, close=lambda: None) for _ in range(2)]
    with nullcontext() if goes_on else pytest.raises(ValueError, match="no memory is left"):
        with failing_alone(both[0], both):
            raise error
    assert (both[0].failure is not None) == goes_on


@pytest.mark.parametrize("is_main_process", [True, False])
def test_every_process_finds_a_weight_that_is_not_finite(is_main_process):
    graph = Graph({"student": nn.Linear(1, 1)}, {}, [], {})
    nn.init.constant_(graph.network("student").weight, torch.nan)
    training = SimpleNamespace(state=TrainingState(graph, [], {}, {}, None))
    with pytest.raises(FloatingPointError, match="networks.student.weight is not finite after iteration 0, so it is"):
        Training.save(training, SimpleNamespace(is_main_process=is_main_process))
