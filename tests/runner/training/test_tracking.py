"""The record of a run: what time is counted as training."""

import re

import pytest
import torch
from accelerate import Accelerator

from segkd.runner.building.stopwatch import Stopwatch
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import phase_seconds, training_times
from segkd.runner.training import tracking
from segkd.runner.training.tracking import Tracking
from segkd.runner.training.wandb_run import Dashboard


@pytest.mark.parametrize("alone", [True, False])
def test_scoring_and_saving_are_no_training(folder, monkeypatch, alone):
    now = 100.0
    monkeypatch.setattr(tracking.time, "perf_counter", lambda: now)
    recipe = read(folder / "tiny.yaml", [f"tracking.folder={folder}"])
    recipe.folder.mkdir()
    watch = Stopwatch()
    record = Tracking(recipe, Accelerator(cpu=True), {}, watch, 0, Dashboard(recipe, None))
    record.alone = alone
    for iteration in range(1, 5):
        watch.marks += [("student", now, now + 0.75), ("backward", now + 0.75, now + 1.0)]
        now += 1.0 if alone else 5.0  # others beside it are none of its time
        record.add({"cross_entropy": torch.tensor(1.0)})
        record.end_step(iteration, 0.1, {"cross_entropy": 1.0})
        if iteration % 2 == 0:
            watch.marks.append(("scoring", now, now + 7.0))
            now += 7.0
            record.flush(scores={"miou": 0.5})
            now += 3.0  # panels, and the checkpoint
            record.restart_clock()
    rows = RunFolder(recipe.folder).read_rows()
    assert training_times(rows, recipe.data.batch_size) == {2: 2.0, 4: 4.0}
    assert phase_seconds(rows) == {"student": 0.75, "backward": 0.25, "scoring": 7.0}


def test_a_log_is_calm(folder, monkeypatch, capsys):
    """The time it takes after three steps, when the speed has settled, and then a line a minute, scores' lines too."""
    now = 100.0
    monkeypatch.setattr(tracking.time, "perf_counter", lambda: now)
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    recipe = read(folder / "tiny.yaml", [f"tracking.folder={folder}", "schedule.iterations=200", "tracking.every=10"])
    recipe.folder.mkdir()
    record = Tracking(recipe, Accelerator(cpu=True), {}, Stopwatch(), 0, Dashboard(recipe, None))
    for iteration in range(1, 201):
        now += 5.0 if iteration == 1 else 1.0  # the first one sets libraries up
        record.add({"cross_entropy": torch.tensor(float(iteration))})
        record.end_step(iteration, 0.1, {"cross_entropy": 1.0})
        if recipe.writes_at(iteration):
            record.flush(scores={"miou": 0.5} if iteration == 120 else None)
    first, *lines = capsys.readouterr().out.splitlines()
    assert re.match(r"tiny: about 3:17 and \d+\.\d GiB of memory", first)
    told = [line.split(" | ") for line in lines]
    assert [line[0] for line in told] == ["tiny 50/200", "tiny 110/200", "tiny 180/200"]
    # the mean of the 60 iterations since the last line; 90 are left at a second each
    assert told[1][1] == "cross_entropy 80.500" and told[1][-1] == "1:30 left"


def test_a_short_training_has_no_lines_between_its_evaluations(folder, monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(tracking.time, "perf_counter", lambda: now)
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    recipe = read(folder / "tiny.yaml", [f"tracking.folder={folder}", "schedule.iterations=100", "tracking.every=10"])
    recipe.folder.mkdir()
    record = Tracking(recipe, Accelerator(cpu=True), {}, Stopwatch(), 0, Dashboard(recipe, None), "1 of 3: ")
    for iteration in range(1, 101):
        now += 1.0
        record.add({"cross_entropy": torch.tensor(1.0)})
        record.end_step(iteration, 0.1, {"cross_entropy": 1.0})
        if recipe.writes_at(iteration):
            record.flush(scores={"miou": 0.5} if iteration % 50 == 0 else None)
    assert capsys.readouterr().out == ""
