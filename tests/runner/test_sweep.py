"""Sweeps: what runs when, what happens to runs that fail or are stopped, and one small sweep for real."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from segkd.runner import sweep
from segkd.runner.comparing.sweep_plan import Job, Run, Sweep, read_plan
from segkd.runner.run_folder.claim import _machine, claim

# in place of distill.py: leaves what a finished run leaves, unless its method is told to fail or to wait for a signal
STAND_IN = """
import os, pathlib, signal, sys, time
folder, method = pathlib.Path(sys.argv[1]), sys.argv[2]
asked = []
def stop(number, frame):
    asked.append(number)
    print("asked", len(asked), flush=True)
    if method != "stubborn" or len(asked) == 2:
        sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
with open("order", "a") as order:
    order.write(f"{folder.name} {os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
print("training", folder, flush=True)
if method == "fails":
    print("the disk is full", file=sys.stderr)
    sys.exit(2)
time.sleep(60 if method in ("waits", "stubborn") else 0.2)
(folder / "student").mkdir(parents=True)
for name in ("config.json", "model.safetensors"):
    (folder / "student" / name).write_text("{}")
(folder / "summary.json").write_text('{"miou": 0.5}')
(folder / "recipe.yaml").write_text(sys.argv[3])
"""
KL = """
extends: tiny.yaml
networks:
  teacher: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}, train: false, weights: random}
losses: [{loss: cross_entropy}, {loss: kl}]
"""


def stand_in_for(recipe):
    return [sys.executable, "-c", STAND_IN, str(recipe.folder), recipe.method_name, recipe.dump()]


@pytest.fixture
def stand_in(folder, monkeypatch):
    """Runs of tiny.yaml, for each method, trained by the stand-in: stand_in("fails", "none", ..., at_once=2)."""
    monkeypatch.chdir(folder)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(sweep, "POLL", 0.05)
    monkeypatch.setattr(sweep, "command_of", lambda job: stand_in_for(job.runs[0].recipe))

    def made(*methods: str, needing: bool = False, **settings) -> sweep.Runs:
        listed = "".join(f"  {method}: tiny.yaml\n" for method in methods)
        (folder / "sweep.yaml").write_text(f"name: s\nmethods:\n{listed}")
        jobs = [Job([run]) for run in read_plan("sweep.yaml").runs]
        if needing:  # the last one reads the first one's student
            last = jobs[-1].runs[0]
            jobs[-1] = Job([Run(last.recipe, last.path, needs=(jobs[0].folders[0],))])
        return sweep.Runs(Sweep(name="s", methods={"x": "x"}, **settings), jobs)

    yield made
    for number, handler in handlers.items():
        signal.signal(number, handler)


def order() -> list[list[str]]:
    """What the stand-ins noted when they started."""
    return [line.split() for line in Path("order").read_text().splitlines()]


def failed(runs: sweep.Runs) -> set[str]:
    """Names of the runs that have failed."""
    return {folder.name for folder in runs.jobs.failed}


def test_runs_go_in_their_order_with_their_threads_and_gpus(stand_in, capsys):
    runs = stand_in("a", "b", "c", "d", threads=3, gpus=[4, 6])
    runs.train()
    assert order() == [[f"s-{method}-s0", "3", "4"] for method in "abcd"]
    assert not failed(runs)
    out = capsys.readouterr().out
    assert "[2/4] s-b-s0: started, output in runs/s/s-b-s0.log" in out
    assert re.search(r"s-b-s0: 50.00 % mIoU after 0:0\d; about 0:0\d left", out) and out.rstrip()[-4:-2] == "0:"
    assert Path("runs/s/s-b-s0.log").read_text() == "training runs/s/s-b-s0\n"
    assert not list(Path("runs").rglob("claim"))


def test_runs_side_by_side_are_spread_over_the_gpus(stand_in):
    runs = stand_in("a", "b", "c", "d", gpus=[4, 6], at_once=2)
    runs.train()
    assert sorted(gpu for _, _, gpu in order()[:2]) == ["4", "6"]
    threads = str(max(1, os.cpu_count() // 2))
    assert [count for _, count, _ in order()] == [threads] * 4


def test_a_run_that_fails_does_not_stop_the_others(stand_in, capsys):
    runs = stand_in("fails", "a", "b", needing=True)
    runs.train()
    out = capsys.readouterr().out
    assert "s-fails-s0 failed with exit code 2; the end of runs/s/s-fails-s0.log:\n    training" in out
    assert "    the disk is full\n" in out and "s-a-s0: 50.00 % mIoU" in out
    assert "s-b-s0 is left out: it needs runs/s/s-fails-s0, which failed" in out
    assert failed(runs) == {"s-fails-s0", "s-b-s0"}
    # what has failed before is tried again, what fails while another sweep is at work is known to that one
    again = stand_in("fails", "a", "b")
    again.train()
    assert [line[0] for line in order()] == ["s-fails-s0", "s-a-s0", "s-fails-s0", "s-b-s0"]


def test_what_fails_elsewhere_in_the_meantime_is_left_alone(stand_in):
    one, other = stand_in("fails", "a"), stand_in("fails", "a")
    one.train()
    other.train()
    assert failed(one) == failed(other) == {"s-fails-s0"} and len(order()) == 2


def test_the_table_names_the_runs_that_are_missing(folder, fabricate, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    methods = "{none: tiny.yaml, kd: tiny.yaml, cwd: tiny.yaml, new: tiny.yaml}"
    (folder / "sweep.yaml").write_text(f"name: s\nseeds: [0, 1]\nmethods: {methods}\n")
    runs = {run.recipe.name: run.recipe for run in read_plan("sweep.yaml").runs if run.recipe.method != "new"}
    for name, recipe in runs.items():
        fabricate(name, np.array([[[5, 10, 5], [4, 8, 9]]]), *recipe.assignments)
    for name in ("s-kd-s1", "s-cwd-s0", "s-cwd-s1"):  # they have diverged
        (runs[name].folder / "student/config.json").unlink()
    begun = "s-cwd-s0, s-cwd-s1, s-kd-s1"
    for only, told in ((None, f"{begun}, s-new-s0, s-new-s1"), (["none"], begun)):
        sweep.show(read_plan("sweep.yaml", only=only))
        words = f"Not in the table, as they failed or have not come to their end: {told}."
        assert words in capsys.readouterr().out
        assert all(words in Path("runs/s/comparison", page).read_text() for page in ("table.md", "report.html"))
    for name in ("s-kd-s1", "s-cwd-s0", "s-cwd-s1"):
        shutil.rmtree(runs[name].folder)
    sweep.show(read_plan("sweep.yaml", only=["none"]))
    assert "Not in the table" not in capsys.readouterr().out


def test_a_sweep_that_the_loss_judges_has_no_table(folder, fabricate, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "sweep.yaml").write_text("name: s\nseeds: [0, 1]\nmethods: {stage1: tiny.yaml}\n")
    plan = read_plan("sweep.yaml")
    for run in plan.runs:
        summary = fabricate(run.recipe.name, np.array([[[5, 10, 5]]]), *run.recipe.assignments) / "summary.json"
        summary.write_text('{"held_out_loss": 0.5}')
    monkeypatch.setattr(type(plan.runs[0].recipe), "judged_by_loss", property(lambda recipe: True))
    sweep.show(plan)
    assert "judged by the loss on held-out images and have no mIoU" in capsys.readouterr().out


def test_each_signal_is_passed_on_once_and_nothing_new_starts(stand_in, capsys):
    runs = stand_in("waits", "stubborn", "a", at_once=2)
    logs = [Path(f"runs/s/s-{method}-s0.log") for method in ("waits", "stubborn")]

    def stop():
        for words in ("training", "asked 1"):
            while not all(log.is_file() and words in log.read_text() for log in logs):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    runs.train()
    assert runs.received == signal.SIGTERM and len(order()) == 2 and not failed(runs)
    out = capsys.readouterr().out
    assert out.count("waiting for the runs") == 1
    assert out.count("-s0 is stopped and goes on when the sweep is started again") == 2
    assert [log.read_text().partition("\n")[2] for log in logs] == ["asked 1\n", "asked 1\nasked 2\n"]


def test_a_run_that_is_trained_elsewhere_is_waited_for(stand_in, capsys):
    runs = stand_in("a", "b", "c", needing=True)
    held = claim(runs.jobs.left[1].folders[0] / "claim")

    def end():
        while not Path("runs/s/s-b-s0/student").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        subprocess.run(
            stand_in_for(runs.jobs.left[1].runs[0].recipe), check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        held.release(finished=True)

    thread = threading.Thread(target=end)
    thread.start()
    runs.train()
    thread.join()
    assert [line[0] for line in order()] == ["s-b-s0", "s-a-s0", "s-c-s0"] and not failed(runs)
    told = f"waiting for what is trained elsewhere: s-a-s0 (process {os.getpid()} on "
    assert capsys.readouterr().out.count(told) == 1


def test_a_run_whose_process_is_gone_is_taken_over(stand_in):
    runs = stand_in("a")
    gone = subprocess.Popen(["true"])
    gone.wait()
    claims = runs.jobs.left[1].folders[0] / "claim"
    claims.mkdir(parents=True)
    words = {"host": "here", "machine": _machine(), "process": gone.pid, "since": "today", "token": "t"}
    (claims / "1").write_text(json.dumps(words))
    runs.train()
    assert len(order()) == 1 and not claims.exists()


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on_and_ends_with_the_comparison(server, folder):
    (folder / "kl.yaml").write_text(KL)
    (folder / "sweep.yaml").write_text(
        "name: small\nseeds: [0]\nat_once: 1\nthreads: 1\nset: [schedule.iterations=2]\n"
        "methods: {none: tiny.yaml, kd: {recipe: kl.yaml, set: [losses.kl.weight=2]}}\n"
    )
    listed = server(folder, "sweep", "sweep.yaml", "--dry-run")
    assert listed.code == 0 and listed.out.count("new    runs/small/small-") == 2 and not (folder / "runs").exists()

    server.start(folder, "sweep", "sweep.yaml")
    server.wait_for("runs/small/*/student")
    server.signal(signal.SIGTERM)
    stopped = server.wait()
    assert stopped.code == 143 and "waiting for the runs" in stopped.out, stopped.err
    assert not (folder / "runs/small/comparison").exists()

    result = server(folder, "sweep", "sweep.yaml")
    assert result.code == 0, result.out + result.err
    assert "1 of 2 runs are done already" in result.out
    assert (stopped.out + result.out).count(" % mIoU after") == 2  # each was trained to its end once
    assert "| kd | 1 |" in result.out and (folder / "runs/small/comparison/table.csv").is_file()

    again = server(folder, "sweep", "sweep.yaml", "--only", "kd")
    assert again.code == 0 and "1 of 1 runs are done already" in again.out and "started" not in again.out
    assert "| none | 1 |" in again.out  # what the sweep has done before is compared too


def test_mistakes_start_nothing(server, folder):
    (folder / "sweep.yaml").write_text("name: small\nmethods: {none: tiny.yaml, kd: nowhere.yaml}\nset: [seed=2]\n")
    result = server(folder, "sweep", "sweep.yaml")
    assert result.code == 2 and "has 2 mistakes, nothing was started" in result.err and "Traceback" not in result.err
    assert not (folder / "runs").exists()
