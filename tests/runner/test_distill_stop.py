"""Signals at any moment: while images do not come, while it scores, while it delivers, before and after inner runs."""

import json
import signal
import time

import pytest

# runs distill.py; TROUBLE says at which place it makes the file `here` and then takes its time
SLOW = """
import itertools, os, pathlib, time
import torch
from segkd.runner import distill
from segkd.runner.command import run_command
from segkd.runner.loading import waiting
from segkd.datasets.synthetic import Synthetic
from segkd.runner.loading import sampler
from segkd.runner.scoring import evaluation
from segkd.runner.training import training

trouble, asked = os.environ["TROUBLE"], itertools.count()

def take_long(*given):
    pathlib.Path("here").touch()
    for _ in range(1200):
        time.sleep(0.05)

if trouble == "images":
    waiting.POLL = 0.5
    load, wait, count = Synthetic.__getitem__, sampler.wait_for_batches, itertools.count()
    Synthetic.__getitem__ = lambda *given: time.sleep(60) if next(count) == 10 else load(*given)

    def ask(*given):
        for number, batch in enumerate(wait(*given)):
            yield batch
            number == 1 and pathlib.Path("here").touch()  # the steps before the third batch are done

    sampler.wait_for_batches = ask
if trouble == "scoring":
    score = evaluation._predict
    evaluation._predict = lambda *given, **how: (pathlib.Path("here").touch(), time.sleep(1.0), score(*given, **how))[-1]
if trouble == "delivery":
    training.Report.text = take_long
if trouble == "building":
    build = training.build_optimizers
    training.build_optimizers = lambda recipe, graph: take_long() if recipe.name == "tiny" else build(recipe, graph)
run_command(distill.main)
"""
STEPS = ("schedule.iterations=6", "evaluate.every=3")


def stop(server, folder, trouble, number, *arguments):
    """Stops a run in its trouble: its result, and the seconds that it took to leave."""
    (folder / "slow.py").write_text(SLOW)
    server.start(folder, "slow.py", "tiny.yaml", *STEPS, *arguments, environment={"TROUBLE": trouble})
    server.wait_for("here")
    time.sleep(0.2)
    since = time.monotonic()
    server.signal(number)
    result = server.wait()
    assert "Traceback" not in result.err and result.code == 128 + number, result.err
    return result, time.monotonic() - since


@pytest.mark.parametrize("trouble, workers, number, told", [
    ("images", 1, signal.SIGTERM, "tiny: stopped after iteration 2 and saved; go on with --resume"),
    ("scoring", 0, signal.SIGTERM, "tiny: stopped after iteration 3 and saved; go on with --resume"),
    ("delivery", 0, signal.SIGINT, "tiny: stopped after iteration 6 and saved; go on with --resume"),
])  # fmt: skip
def test_a_signal_is_obeyed_and_nothing_is_lost(trained, trained_once, server, folder, trouble, workers, number, told):
    whole = trained_once("whole", *STEPS)
    stopped, seconds = stop(server, folder, trouble, number, f"data.workers={workers}")
    assert told in stopped.out and seconds < 20, (stopped.out, seconds)
    resumed = trained("tiny", *STEPS, "--resume")
    assert resumed.ends() == whole.ends() and resumed.rows("gradient_norm") == whole.rows("gradient_norm")
    summaries = [json.loads((run.path / "summary.json").read_text()) for run in (whole, resumed)]
    assert summaries[0]["iou_per_class"] == summaries[1]["iou_per_class"]


def test_a_run_that_is_being_built_ends_at_once(server, folder):
    _, seconds = stop(server, folder, "building", signal.SIGINT)
    assert seconds < 5 and not (folder / "runs").exists()


def test_after_an_inner_run_a_signal_ends_what_is_built_next(server, folder):
    """The inner run's way to stop is not kept."""
    (folder / "first.yaml").write_text("extends: tiny.yaml\nname: first\nschedule: {iterations: 1}\n")
    result, seconds = stop(server, folder, "building", signal.SIGINT, "baseline={recipe: first.yaml}")
    assert "first is done" in result.out and seconds < 5


def test_two_processes_leave_an_evaluation_that_one_was_asked_to_stop(server, folder):
    (folder / "slow.py").write_text(SLOW)
    server.start(folder, "slow.py", "tiny.yaml", *STEPS, environment={"TROUBLE": "scoring"}, processes=2)
    server.wait_for("here")
    server.signal(signal.SIGTERM, rank=1)
    stopped = server.wait()
    assert stopped.code == 143 and stopped.err == "", stopped.err
    assert stopped.out.count("tiny: stopped after iteration 3 and saved; go on with --resume") == 1


def test_a_launcher_s_traceback_is_explained(server, folder, trained):
    environment = {"TROUBLE": "scoring", "ACCELERATE_MIXED_PRECISION": "no"}
    (folder / "slow.py").write_text(SLOW)
    server.start(folder, "slow.py", "tiny.yaml", *STEPS, environment=environment)
    server.wait_for("here")
    server.signal(signal.SIGINT)
    assert "--resume; a traceback of its launcher's around this is none of the run's" in server.wait().out
