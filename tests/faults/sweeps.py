"""Sweeps that several processes share and that are killed at any moment, alone or with the trainings they have started.

What is judged: however often processes are killed and others started in their place, every run comes to its end once,
with the weights, the last checkpoint and the log of the same sweep that one process trains undisturbed; all processes
that are left end well, with the comparison; no claim is left. A training that is stopped for so long that another
process has taken its run over ends with a sentence when it continues.

The trainings of a case are forks: a started python would need five seconds to import torch. In the short form they are
stand-ins, which claim and save as distill.py does and compute nothing.
"""

import functools
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
from accelerate.state import AcceleratorState
from faults.attempts import Case, Ending, Finding, Running, new_folder
from faults.checkpoints import unlike
from faults.recipes import FLAT, HEAD, train

from segkd.runner import sweep
from segkd.runner.command import run_command
from segkd.runner.recipe.read import read
from segkd.runner.run_folder import claim as claims
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.replacing import write_text
from segkd.runner.training import report

WORKERS, SECONDS, STEPS = 4, 300, 5
RECIPE = f"""{HEAD}networks: {{student: {FLAT}}}
losses: [{{loss: cross_entropy}}]
optimizer: {{lr: 0.02}}
schedule: {{iterations: 4}}
loop: {{save_every: 1}}
evaluate: {{every: 2}}
tracking: {{wandb: disabled, images: 0, every: 1}}
"""


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many kills, twenty to a sweep."""
    for number, first in enumerate(range(0, count, 20)):
        draw = random.Random(f"sweeps {seed} {number}")
        yield shared(draw, runs=12, signals=min(20, count - first), stops=number % 2 == 1)


class Forked:
    """A training in a fork, in place of a started python."""

    def __init__(self, training: Callable[[list[str]], None], words: list[str], **given):
        self.pid = os.fork()
        if self.pid == 0:
            self._become(training, words, given["env"], given["stdout"].fileno())
        self.handle = os.pidfd_open(self.pid)

    @staticmethod
    def _become(training: Callable[[list[str]], None], words: list[str], environment: dict, out: int) -> None:
        code = 1
        try:
            os.setsid()
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            os.environ.update(environment)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            run_command(lambda: training(words))
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def send_signal(self, number: int) -> None:
        """As Popen does."""
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """As Popen does."""
        if timeout is not None and not select.select([self.handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a fork", timeout)
        os.close(self.handle)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def real(words: list[str]) -> None:
    """distill.py, without the curves, which take as long as its steps."""
    AcceleratorState._reset_state(reset_partial_state=True)  # as in kills.train_here
    report.curves = lambda rows, file: file.touch()
    train(*words)


def stand_in(words: list[str]) -> None:
    """What claims, saves step by step, goes on from what was saved, and delivers the steps it has come through."""
    path, *assignments = [word for word in words if word != "--resume"]
    recipe = read(path, assignments)
    run, student = RunFolder(recipe.folder), RunFolder(recipe.folder).student
    held = claims.claim(run.claims)
    if not run.is_begun:
        write_text(run.recipe_file, recipe.dump())
    saved = run.path / "saved"
    for step in range(len(saved.read_text()) if saved.exists() else 0, STEPS):
        time.sleep(0.03)
        held.check()
        write_text(saved, "".join(map(str, range(step + 1))) if step == 0 else saved.read_text() + str(step))
    held.check()
    if not run.is_finished:
        with open("finished", "a") as finished:
            finished.write(f"{recipe.name}\n")
        student.path.mkdir(exist_ok=True)
        write_text(run.summary_file, '{"miou": 0.5}')
        write_text(student.config_file, "{}")
        write_text(student.weights_file, saved.read_text())
    held.release(finished=run.is_finished)


def work(training: Callable[[list[str]], None]) -> None:
    """sweep.py, which looks often at what others do."""
    claims.BEAT, claims.STALE, sweep.POLL = 0.2, 4.0, 0.2
    sweep.subprocess = SimpleNamespace(Popen=functools.partial(Forked, training), DEVNULL=None)
    sweep.command_of = lambda job: [job.runs[0].path, *job.runs[0].recipe.assignments, "--resume"]
    if training is stand_in:
        sweep.show = lambda plan: None
    sys.argv = ["sweep.py", "sweep.yaml"]
    sweep.main()


def prepare(folder: Path, runs: int) -> None:
    """A sweep of so many runs, in two seeds."""
    (folder / "tried.yaml").write_text(RECIPE)
    methods = "".join(f"  m{n}: {{recipe: tried.yaml, set: [optimizer.lr=0.0{n + 1}]}}\n" for n in range(runs // 2))
    (folder / "sweep.yaml").write_text(f"name: s\nseeds: [0, 1]\nmethods:\n{methods}")


@functools.cache
def whole(runs: int) -> Path:
    """A folder with the sweep that one process has trained undisturbed."""
    folder = new_folder("whole-sweep")
    prepare(folder, runs)
    ending = Running(folder, lambda: work(real)).wait(SECONDS)
    assert ending.code == 0, ending
    return folder


def shared(
    draw: random.Random, *, runs: int, signals: int, training: Callable[[list[str]], None] = real, stops: bool = False
) -> Case:
    """A sweep by WORKERS processes, of which so many are killed, one after the other, and started again.

    Args:
        stops: trainings are stopped, too, until another process has taken their run over.
    """

    def run(folder: Path) -> Finding:
        undisturbed = whole(runs) if training is real else None
        prepare(folder, runs)
        workers = [Running(folder, lambda: work(training)) for _ in range(WORKERS)]
        stopped: list[psutil.Process] = []
        try:
            for number in range(signals):
                workers[0].ends_in(draw.uniform(0.0, 0.15 if training is stand_in else 1.0))
                if stops and number % 4 == 3:
                    stopped += _stop_one(workers, draw)
                else:
                    kill_one(workers, draw)
                    workers.append(Running(folder, lambda: work(training)))
            for process in stopped:  # while others go on with what was theirs
                workers[-1].ends_in(6)
                _signal(process, signal.SIGCONT)
            endings = [worker.wait(SECONDS, clear=False) for worker in workers]
        finally:
            for process in stopped:
                _signal(process, signal.SIGKILL)
        return _judged(folder, endings, undisturbed) or Finding("fine", times=signals)

    return Case("sweeps shared and killed", f"{runs} runs, {signals} signals", run)


def _trainings(worker: Running) -> list[psutil.Process]:
    try:
        return psutil.Process(worker.process).children()
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def kill_one(workers: list[Running], draw: random.Random) -> None:
    """Kills one of those at work; in one of two cases its machine is lost, with the training on it."""
    at_work = [worker for worker in workers if not worker.ends_in(0)] or workers[:1]
    worker = draw.choice(at_work)
    lost = _trainings(worker) if draw.random() < 0.5 else []
    worker.signal(signal.SIGKILL)
    for process in lost:
        _signal(process, signal.SIGKILL)


def _stop_one(workers: list[Running], draw: random.Random) -> list[psutil.Process]:
    trainings = [process for worker in workers if not worker.ends_in(0) for process in _trainings(worker)]
    chosen = [draw.choice(trainings)] if trainings else []
    for process in chosen:
        _signal(process, signal.SIGSTOP)
    return chosen


def _judged(folder: Path, endings: list[Ending], undisturbed: Path | None) -> Finding | None:
    wrong = [ending for ending in endings if ending.code not in (0, -signal.SIGKILL)]
    if wrong:
        kind = "hang" if any(ending.code is None for ending in wrong) else "lost"
        return Finding(
            kind, "\n".join(f"exit code {ending.code}\n{ending.out[-1500:]}{ending.err}" for ending in wrong)
        )
    names = [path.stem for path in sorted((folder / "runs/s").glob("*.log"))]
    for name in names:
        log, run = (folder / f"runs/s/{name}.log").read_text(), folder / "runs/s" / name
        if undisturbed is None:
            if (run / "student/model.safetensors").read_text() != "".join(map(str, range(STEPS))):
                return Finding("lost", f"other weights of {name}\n{log}")
        elif log.count(f"{name} is done") > 1 or unlike(folder, undisturbed, run=Path("runs/s") / name):
            return Finding("lost", f"{name}: {unlike(folder, undisturbed, run=Path('runs/s') / name)}\n{log}")
    if undisturbed is None:
        finished = (folder / "finished").read_text().split()
        if len(set(finished)) != len(names):
            return Finding("lost", f"finished: {sorted(finished)}")
    elif not (folder / "runs/s/comparison/table.csv").exists():
        return Finding("lost", "no comparison")
    left = [str(path.relative_to(folder)) for path in (folder / "runs").rglob("*claim*")]
    left += [str(path.relative_to(folder)) for path in (folder / "runs").rglob(".*partial*")]
    return Finding("lost", f"left: {left}") if left else None
