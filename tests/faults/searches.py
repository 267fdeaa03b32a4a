"""Searches that several processes share and that are killed at any moment, alone or with the trials they have started.

What is judged: however often processes are killed and others started in their place, each trial comes to its end once,
with the settings it had when it began and the steps in its log that an undisturbed trial has; the journal can be read;
all processes that are left end well; those given up have no checkpoints and no student; the best setting is what the
sweep trains then; no claim is left.

Trials and runs are stand-ins in forks, which claim and save as distill.py does and compute nothing.
"""

import functools
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import optuna
from faults.attempts import Case, Finding, Running
from faults.sweeps import RECIPE, SECONDS, Forked, kill_one

from segkd.runner import sweep
from segkd.runner.comparing.search import Method
from segkd.runner.comparing.sweep_plan import read_plan
from segkd.runner.recipe.read import read
from segkd.runner.run_folder import claim as claims
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import append_rows
from segkd.runner.run_folder.replacing import write_text

WORKERS, TRIALS, STEPS = 3, 12, 5
SWEEP = """
name: s
methods: {a: tried.yaml}
search:
  trials: 12
  startup: 3
  set: [evaluate.every=1]
  parameters: {optimizer.lr: {low: 0.001, high: 0.1, log: true}}
"""


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many kills, ten to a search."""
    for number, first in enumerate(range(0, count, 10)):
        yield shared(random.Random(f"searches {seed} {number}"), signals=min(10, count - first))


def score(rate: float, step: int) -> float:
    """The score of a stand-in after a step."""
    return 0.5 / (1 + abs(rate - 0.01) / 0.01) * step / STEPS


def stand_in(words: list[str]) -> None:
    """What claims, logs a score at each step, goes on from what was saved, and delivers; SIGTERM ends it."""
    path, *assignments = [word for word in words if word != "--resume"]
    recipe = read(path, assignments)
    run, student = RunFolder(recipe.folder), RunFolder(recipe.folder).student
    held = claims.claim(run.claims)
    signal.signal(signal.SIGTERM, lambda number, frame: (held.release(), sys.exit(143)))
    if not run.is_begun:
        write_text(run.recipe_file, recipe.dump())
    run.checkpoints.mkdir(exist_ok=True)
    for step in range(len(run.read_rows()) + 1, STEPS + 1):
        time.sleep(0.05)
        held.check()
        append_rows(run.metrics_file, [{"iteration": step, "miou": score(recipe.optimizer.lr, step)}])
    held.check()
    if not run.is_finished:
        with open("finished", "a") as finished:
            finished.write(f"{recipe.folder}\n")
        student.path.mkdir(exist_ok=True)
        write_text(run.summary_file, json.dumps({"miou": score(recipe.optimizer.lr, STEPS)}))
        write_text(student.config_file, "{}")
        write_text(student.weights_file, str(recipe.optimizer.lr))
    held.release(finished=run.is_finished)


def work() -> None:
    """sweep.py, which looks often at what others do."""
    claims.BEAT, claims.STALE, sweep.POLL = 0.2, 4.0, 0.05
    sweep.subprocess = SimpleNamespace(Popen=functools.partial(Forked, stand_in), DEVNULL=None)
    sweep.command_of = lambda job: [job.runs[0].path, *job.runs[0].recipe.assignments, "--resume"]
    sweep.show = lambda plan: None
    sys.argv = ["sweep.py", "sweep.yaml"]
    sweep.main()


def shared(draw: random.Random, *, signals: int) -> Case:
    """A search by WORKERS processes, of which so many are killed, one after the other, and started again."""

    def run(folder: Path) -> Finding:
        (folder / "tried.yaml").write_text(RECIPE)
        (folder / "sweep.yaml").write_text(SWEEP)
        workers = [Running(folder, work) for _ in range(WORKERS)]
        for _ in range(signals):
            workers[0].ends_in(draw.uniform(0.1, 0.4))
            kill_one(workers, draw)
            workers.append(Running(folder, work))
        endings = [worker.wait(SECONDS, clear=False) for worker in workers]
        wrong = [ending for ending in endings if ending.code not in (0, -signal.SIGKILL)]
        if wrong:
            kind = "hang" if any(ending.code is None for ending in wrong) else "lost"
            words = [f"exit code {ending.code}\n{ending.out[-1500:]}{ending.err}" for ending in wrong]
            return Finding(kind, "\n".join(words))
        ending = Running(folder, lambda: judged(folder)).wait(SECONDS)
        if ending.code != 0 or ending.told:
            return Finding("lost", f"{ending.told} {ending.err}\n{endings[-1].out[-3000:]}")
        return Finding("fine", times=signals)

    return Case("searches shared and killed", f"{TRIALS} trials, {signals} signals", run)


def judged(folder: Path) -> str | None:
    """What is wrong with what a search has left, in words."""
    plan = read_plan("sweep.yaml", tuned=lambda sweep, tried: None)
    method = Method(plan.sweep, plan.tried[0])
    trials = method.study.get_trials()
    for trial in trials[:TRIALS]:
        run, state = method.run_of(trial.number), trial.state.name
        rate, steps = run.read_recipe().optimizer.lr, [row["iteration"] for row in run.read_rows()]
        if state not in ("COMPLETE", "PRUNED") or rate != float(f"{trial.params['optimizer.lr']:.4g}"):
            return f"trial {trial.number} is {state}, with a rate of {rate}: {trial.params}"
        if steps != list(range(1, len(steps) + 1)) or run.checkpoints.exists():
            return f"trial {trial.number}: steps {steps}, checkpoints {run.checkpoints.exists()}"
        if state == "COMPLETE" and trial.value != score(rate, STEPS):
            return f"trial {trial.number}: {trial.value} of {score(rate, STEPS)}"
    if any(trial.state != optuna.trial.TrialState.FAIL for trial in trials[TRIALS:]):  # one too many was asked for
        return f"{len(trials)} trials"
    finished = Path("finished").read_text().split()
    if len(set(finished)) != len(finished):
        return f"finished twice: {sorted(finished)}"
    best = max((trial for trial in trials if trial.state.name == "COMPLETE"), key=lambda trial: trial.value)
    if read("runs/s/s-a-s0/recipe.yaml").optimizer.lr != float(f"{best.params['optimizer.lr']:.4g}"):
        return "another setting than the best was trained"
    left = [str(path) for pattern in ("*claim", "*.lock") for path in Path("runs").rglob(pattern)]
    return f"left: {left}" if left else None
