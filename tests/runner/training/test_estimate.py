"""What a recipe will take: measured on a batch, and its order of size held against what is known."""

from accelerate import Accelerator

from segkd.runner.building.device import peak_memory
from segkd.runner.building.losses import rehearse
from segkd.runner.recipe.read import read
from segkd.runner.training import estimate
from segkd.runner.training.estimate import Cost, bytes_kept, measured


def test_costs_of_trainings_one_after_the_other():
    cost = Cost(60, 2**30) + Cost(3, 3 * 2**30)
    assert str(cost) == "about 1:03 and 3.0 GiB of memory"


def test_a_recipe_is_measured_step_by_step(folder, monkeypatch):
    recipe = read(folder / "tiny.yaml", ["schedule.iterations=100", "evaluate.every=50", "loop.accumulate=2"])
    times = iter(range(100))  # each look at the clock is a second later
    monkeypatch.setattr(estimate, "now", lambda accelerator: next(times))
    accelerator = Accelerator(cpu=True)
    graph, sets = rehearse(recipe, accelerator)
    size = sum(4 * one.numel() for one in graph.network("student").parameters())
    assert bytes_kept(graph, recipe) == 3 * size  # weights, gradients, momentum
    peak = peak_memory(accelerator.device)
    cost = measured(recipe, graph, sets, accelerator)
    # two parts a step, two evaluations of 15 images in 3 batches
    assert cost.seconds == 100 * 2 * 1 + 2 * 3 * 1
    # the peak of the process, which tests before this one may have set, and SGD's momentum
    assert 2**27 < peak <= cost.memory - size <= peak_memory(accelerator.device)
