"""Trains methods with several seeds: `python runner/sweep.py sweep.yaml [key=value ...] [--only METHOD ...]`.

Each run is a process of its own and may be stopped: started again, the sweep goes on with it and leaves out what is
done. runner/comparing/sweep_plan.py says what stands in the file.
"""

import argparse

from segkd.runner.command import ask_early, new_parser, run_command


def ask() -> argparse.Namespace:
    """The options."""
    parser = new_parser("Train methods with several seeds.")
    parser.add_argument("sweep", help="path of the sweep's file")
    parser.add_argument("overrides", nargs="*", help="key=value for all recipes, such as schedule.iterations=400")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="run these methods (after the overrides)")
    parser.add_argument("--together", action="store_true", help="as `together: true` in the file")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and start nothing")
    return parser.parse_intermixed_args()


ask = ask_early(ask, __name__)  # before the imports that take seconds

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import RLock
from types import FrameType

from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import common_folder, find_runs
from segkd.runner.comparing.sweep_plan import Job, Plan, Sweep, read_plan, side_by_side
from segkd.runner.comparing.tables import write_comparison
from segkd.runner.console import clock, message, percent, say
from segkd.runner.run_folder.folder import RunFolder

SHOWN = 8  # last lines of a log that are shown when its run fails
STOPPED = "is stopped and goes on when the sweep is started again"


def command_of(job: Job) -> list[str]:
    """What trains the runs of a job, from their start or from where they were stopped."""
    words = [job.file] if len(job.runs) > 1 else [job.runs[0].path, *job.runs[0].recipe.assignments]
    return [sys.executable, str(Path(__file__).with_name("distill.py")), *words, "--resume"]


class Runs:
    """Trains runs, each job of them in a process of its own, and passes on the signals that ask it to stop."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self.processes: list[subprocess.Popen] = []
        self.failed: set[Path] = set()
        self.received: int | None = None
        self.lock = RLock()  # a signal may arrive while another one is passed on
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        with self.lock:
            if self.processes and self.received is None:
                say("waiting for the runs to finish their step and save; Ctrl-C once more ends them at once")
            self.received = number
            for process in self.processes:
                process.send_signal(number)

    def train(self, jobs: list[Job], at_once: int) -> None:
        """Trains the jobs in their order, so many at once, to the end of the last one or to a signal."""
        waiting, seconds = deque(enumerate(jobs, start=1)), []

        def take_turns(slot: int) -> None:
            while True:
                with self.lock:
                    if not waiting or self.received is not None:
                        return
                    number, job = waiting.popleft()
                since = time.monotonic()
                problem = self._train_one(job, f"[{number}/{len(jobs)}]", slot, at_once)
                if problem is not None:
                    say(message(f"{job.name} {problem}"))
                    continue
                seconds.append(time.monotonic() - since)
                # if the others take as long as those that have ended; those going on are taken half done
                rest, mean = len(waiting) + len(self.processes) / 2, sum(seconds) / len(seconds)
                left = f"; about {clock(mean * max(rest / at_once, 0.5))} left" if rest else ""
                for run in job.runs:
                    summary = RunFolder(run.recipe.folder).read_summary()
                    if "miou" in summary:
                        judged = f"{percent(summary['miou'])} % mIoU"
                    else:
                        judged = f"a loss of {summary['held_out_loss']:.5g} on held-out images"
                    say(f"{run.recipe.name}: {judged} after {clock(seconds[-1])}{left}")

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(take_turns, range(at_once)))  # an error in one is raised

    def _train_one(self, job: Job, place: str, slot: int, at_once: int) -> str | None:
        """Trains a job and says why its runs did not all come to their end, None if they did."""
        missing = [str(folder) for folder in job.needs if folder in self.failed]
        if missing:
            self.failed.update(job.folders)
            return f"is left out: it needs {', '.join(missing)}, which failed"
        environment = os.environ | {
            "OMP_NUM_THREADS": str(self.sweep.threads or max(1, (os.cpu_count() or 1) // at_once))
        }
        if self.sweep.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(self.sweep.gpus[slot % len(self.sweep.gpus)])
        job.prepare()
        with job.log.open("ab") as log, self.lock:  # a signal reaches the process whenever it arrives, and once
            if self.received is not None:
                return STOPPED
            try:  # the run holds the lock with its output, also when the sweep that started it was killed
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.failed.update(job.folders)
                return f"is left out: it is still running, started by another sweep ({job.log})"
            start, began = log.tell(), any(run.state() == "begun" for run in job.runs)
            process = subprocess.Popen(
                command_of(job),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal would reach it twice, and twice means: at once
            )
            self.processes.append(process)
        say(f"{place} {job.name}: {'going on' if began else 'started'}, output in {job.log}")
        code = process.wait()
        self.processes.remove(process)
        unfinished = [run.recipe.folder for run in job.runs if run.state() != "done"]
        # a signal may come as it ends
        if (code == 0 or self.received is not None) and not unfinished:
            return None
        if self.received is not None:
            return STOPPED
        self.failed.update(unfinished)
        lines = job.log.read_bytes()[start:].decode(errors="replace").splitlines()
        end = "\n".join([f"    {line}" for line in lines if line.strip()][-SHOWN:])
        return f"failed with exit code {code}; the end of {job.log}:\n{end}"


def main() -> None:
    options = ask()
    plan = read_plan(options.sweep, options.overrides, options.only)
    missing = [run for run in plan.runs if run.state() != "done"]
    jobs = [Job([run]) for run in missing]
    if options.together or plan.sweep.together:
        jobs = side_by_side(missing)
    if options.dry_run:
        for run in [*plan.teachers, *plan.runs]:
            say(f"{run.state():5}  {run.recipe.folder}  {' '.join([run.path, *run.recipe.assignments])}")
        for job in jobs:
            if len(job.runs) > 1:
                say(f"together  {job.name}")
        return
    runs = Runs(plan.sweep)
    runs.train([Job([teacher]) for teacher in plan.teachers], at_once=1)
    if len(missing) < len(plan.runs):
        say(f"{len(plan.runs) - len(missing)} of {len(plan.runs)} runs are done already")
    runs.train(jobs, plan.sweep.at_once)
    if runs.received is not None:
        sys.exit(128 + runs.received)
    show(plan)
    if runs.failed:
        say(f"{len(runs.failed)} runs failed: {', '.join(folder.name for folder in sorted(runs.failed))}")
        sys.exit(1)


def show(plan: Plan) -> None:
    """Compares what is done of the sweep, by this call or an earlier one, if there is anything."""
    if any(run.state() == "done" for run in plan.runs):
        folders = dict.fromkeys(str(run.recipe.folder.parent) for run in plan.runs)
        runs = find_runs(folders, skip_unfinished=True)
        say("\n" + write_comparison(compare(runs), common_folder(runs) / "comparison"))


if __name__ == "__main__":
    run_command(main)
