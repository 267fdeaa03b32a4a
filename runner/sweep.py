"""Trains methods with several seeds: `python runner/sweep.py sweep.yaml [key=value ...] [--only METHOD ...]`.

Each run is a process of its own and may be stopped: started again, the sweep goes on with it and leaves out what is
done. runner/comparing/sweep_plan.py says what stands in the file.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from segkd.runner.command import run_command
from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import common_folder, find_runs
from segkd.runner.comparing.sweep_plan import Plan, Run, Sweep, read_plan
from segkd.runner.comparing.tables import write_comparison
from segkd.runner.console import clock, percent, say
from segkd.runner.run_folder.opening import is_finished

SHOWN = 8  # last lines of a log that are shown when its run fails


@dataclass
class Process:
    """A run that is going on, in the place `slot` of those that run at once."""

    run: Run
    slot: int
    process: subprocess.Popen
    log: BinaryIO
    log_start: int
    since: float


def command_of(run: Run) -> list[str]:
    """What trains a run, from its start or from where it was stopped."""
    return [sys.executable, str(Path(__file__).with_name("distill.py")), run.path, *run.assignments, "--resume"]


class Runs:
    """Starts runs, so many at once, and waits for their ends; passes on the signals that ask it to stop."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self.going: list[Process] = []
        self.failed: set[Path] = set()
        self.took: list[float] = []
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for one in self.going:
            one.process.send_signal(number)

    def train(self, runs: list[Run], at_once: int) -> None:
        """Trains the runs in their order, to the end of the last one or to a signal."""
        waiting, told = list(runs), False
        self.took = []
        while (waiting and self.received is None) or self.going:
            while waiting and self.received is None and len(self.going) < at_once:
                run, place = waiting.pop(0), f"[{len(runs) - len(waiting)}/{len(runs)}]"
                missing = [str(folder) for folder in run.needs if folder in self.failed]
                if missing:
                    self.failed.add(run.recipe.folder)
                    say(f"{place} {run.recipe.name} is left out: it needs {', '.join(missing)}, which failed")
                    continue
                self._start(run, place, at_once)
            if self.received is not None and not told:
                told = True
                say("waiting for the runs to finish their step and save; Ctrl-C once more ends them at once")
            self._look(waiting, at_once)
            time.sleep(0.1)

    def _start(self, run: Run, place: str, at_once: int) -> None:
        slot = min(set(range(at_once)) - {one.slot for one in self.going})
        state = run.state()
        run.log.parent.mkdir(parents=True, exist_ok=True)
        log = run.log.open("ab")
        try:  # the run holds the lock with its output, also when the sweep that started it was killed
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.close()
            self.failed.add(run.recipe.folder)
            say(f"{place} {run.recipe.name} is left out: it is still running, started by another sweep ({run.log})")
            return
        threads = self.sweep.threads or max(1, (os.cpu_count() or 1) // at_once)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if self.sweep.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(self.sweep.gpus[slot % len(self.sweep.gpus)])
        say(f"{place} {run.recipe.name}: {'going on' if state == 'begun' else 'started'}, output in {run.log}")
        log_start = os.fstat(log.fileno()).st_size
        process = subprocess.Popen(
            command_of(run),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in a terminal would reach it twice, and twice means: at once
        )
        self.going.append(Process(run, slot, process, log, log_start, time.monotonic()))
        if self.received is not None:  # it came while this one started
            process.send_signal(self.received)

    def _look(self, waiting: list[Run], at_once: int) -> None:
        """Takes notice of the runs that have ended."""
        for one in [one for one in self.going if one.process.poll() is not None]:
            self.going.remove(one)
            one.log.close()
            name, code = one.run.recipe.name, one.process.returncode
            if code == 0 and is_finished(one.run.recipe):
                self.took.append(time.monotonic() - one.since)
                miou = json.loads((one.run.recipe.folder / "summary.json").read_text())["miou"]
                say(f"{name}: {percent(miou)} % mIoU after {clock(self.took[-1])}{self._left(waiting, at_once)}")
            elif self.received is not None:
                say(f"{name}: stopped, will go on when the sweep is started again")
            else:
                self.failed.add(one.run.recipe.folder)
                with one.run.log.open("rb") as log:
                    log.seek(one.log_start)
                    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
                say(f"{name} failed with exit code {code}; the end of {one.run.log}:")
                say("\n".join(f"    {line}" for line in lines[-SHOWN:]))

    def _left(self, waiting: list[Run], at_once: int) -> str:
        """The time left if the others take as long as those that have ended; those going on are taken half done."""
        open_runs = len(waiting) + len(self.going) / 2
        if not open_runs:
            return ""
        mean = sum(self.took) / len(self.took)
        return f"; about {clock(mean * max(open_runs / at_once, 0.5))} left"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train methods with several seeds.", allow_abbrev=False)
    parser.add_argument("sweep", help="path of the sweep's file")
    parser.add_argument("overrides", nargs="*", help="key=value for all recipes, such as schedule.iterations=400")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="run these methods (after the overrides)")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and start nothing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_intermixed_args()
    plan = read_plan(options.sweep, options.overrides, options.only)
    if options.dry_run:
        for run in [*plan.teachers, *plan.runs]:
            say(f"{run.state():5}  {run.recipe.folder}  {' '.join([run.path, *run.assignments])}")
        return
    runs = Runs(plan.sweep)
    runs.train(plan.teachers, at_once=1)
    missing = [run for run in plan.runs if run.state() != "done"]
    if len(missing) < len(plan.runs):
        say(f"{len(plan.runs) - len(missing)} of {len(plan.runs)} runs are done already")
    runs.train(missing, plan.sweep.at_once)
    if runs.received is not None:
        sys.exit(128 + runs.received)
    show(plan)
    if runs.failed:
        say(f"{len(runs.failed)} runs failed: {', '.join(folder.name for folder in sorted(runs.failed))}")
        sys.exit(1)


def show(plan: Plan) -> None:
    """Compares what is done of the sweep, by this call or an earlier one, if there is anything."""
    folders = dict.fromkeys(run.recipe.folder.parent for run in plan.runs)
    if any(run.state() == "done" for run in plan.runs):
        runs = find_runs([str(folder) for folder in folders], skip_unfinished=True)
        say("\n" + write_comparison(compare(runs), common_folder(runs) / "comparison"))


if __name__ == "__main__":
    run_command(main)
