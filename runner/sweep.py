"""Trains methods with several seeds: `python runner/sweep.py sweep.yaml [key=value ...] [--only METHOD ...]`.

Each run is a process of its own and may be stopped: started again, the sweep goes on with it and leaves out what is
done. Started several times, on machines that see one disk, all work on one sweep: a run is trained by who has its claim.
runner/comparing/sweep_plan.py says what stands in the file.
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
    parser.add_argument(
        "--slurm", nargs="?", const="", metavar="FILE", help="queue the runs on a cluster, as `slurm:` in the file says"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and start nothing")
    return parser.parse_intermixed_args()


ask = ask_early(ask, __name__)  # before the imports that take seconds

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, RLock
from types import FrameType

from segkd.runner.comparing.comparison import Comparison, compare
from segkd.runner.comparing.finished_runs import FinishedRun, common_folder, find_runs, missing_runs
from segkd.runner.comparing.search import Method, Trials, tuned
from segkd.runner.comparing.shared_jobs import SharedJobs, TakenJob, is_over
from segkd.runner.comparing.slurm_submission import submit
from segkd.runner.comparing.sweep_plan import Job, Plan, Sweep, read_plan, read_slurm, side_by_side
from segkd.runner.comparing.tables import write_comparison
from segkd.runner.console import clock, command, counted, message, percent, say, some
from segkd.runner.run_folder.claim import HANDED_OVER, claimed
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.replacing import replacing

POLL = 3.0  # seconds between two looks at runs that are trained elsewhere
SHOWN = 8  # last lines of a log that are shown when its run fails
STOPPED = "is stopped and goes on when the sweep is started again"


def command_of(job: Job) -> list[str]:
    """What trains the runs of a job, from their start or from where they were stopped."""
    words = [job.file] if len(job.runs) > 1 else [job.runs[0].path, *job.runs[0].recipe.assignments]
    return [sys.executable, str(Path(__file__).with_name("distill.py")), *words, "--resume"]


class Runs:
    """Trains runs, each job of them in a process of its own, and passes on the signals that ask it to stop."""

    def __init__(self, sweep: Sweep, jobs: list[Job] | Trials):
        self.sweep, self.jobs = sweep, SharedJobs(jobs) if isinstance(jobs, list) else jobs
        self.processes: dict[TakenJob, subprocess.Popen | None] = {}  # None: about to start
        self.received: int | None = None
        self.stopping = Event()
        self.seconds: list[float] = []
        self.told: set[str] = set()
        self.lock = RLock()  # a signal may arrive while another one is passed on
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        with self.lock:
            if self.processes and self.received is None:
                say("waiting for the runs to finish their step and save; Ctrl-C once more ends them at once")
            self.received = number
            self.stopping.set()
            for process in filter(None, self.processes.values()):
                process.send_signal(number)

    def train(self) -> None:
        """Trains what nobody else trains, in its order, to the end of the last run anywhere or to a signal."""
        with ThreadPoolExecutor(self.sweep.at_once) as pool:
            list(pool.map(self._take_turns, range(self.sweep.at_once)))  # an error in one is raised

    def _take_turns(self, slot: int) -> None:
        while self.received is None:
            with self.lock:
                self._leave_out()
                taken = self.jobs.take()
                if taken is not None:
                    self.processes[taken] = None
                elif not self.jobs.left:
                    return
                else:
                    self._tell_who_is_awaited()
            if taken is None:
                self.stopping.wait(POLL)
                continue
            since = time.monotonic()
            try:
                problem = self._train_one(taken, slot)
            finally:
                with self.lock:
                    del self.processes[taken]
                for claim in taken.claims.values():
                    claim.release()
            if problem is not None:
                say(message(f"{taken.job.name} {problem}"))
                continue
            self.seconds.append(time.monotonic() - since)
            self._tell_results(taken)

    def _leave_out(self) -> None:
        """Those that cannot be trained any more, since what they need has failed."""
        for job in self.jobs.left.values():
            missing = [str(folder) for folder in job.needs if folder in self.jobs.failed]
            if missing and not set(job.folders) <= self.jobs.failed.keys():
                say(f"{job.name} is left out: it needs {', '.join(missing)}, which failed")
                self.jobs.failed |= {folder: "was left out" for folder in job.folders}

    def _tell_who_is_awaited(self) -> None:
        own = {run.recipe.name for taken in self.processes for run in taken.job.runs}
        awaited = {name: holder for name, holder in self.jobs.elsewhere().items() if name not in own}
        if awaited.keys() - self.told:
            self.told |= awaited.keys()
            names = some([f"{name} ({holder})" for name, holder in awaited.items()])
            say(f"nothing to start now; waiting for what is trained elsewhere: {names}")

    def _tell_results(self, taken: TakenJob) -> None:
        # if the others take as long as those that have ended; those going on are taken half done
        mean = sum(self.seconds) / len(self.seconds)
        rest = len(self.jobs.left.keys() - {taken.number}) - len(self.processes) / 2
        left = f"; about {clock(mean * max(rest / self.sweep.at_once, 0.5))} left" if rest > 0 else ""
        for run in taken.job.runs:
            summary = RunFolder(run.recipe.folder).read_summary()
            if "miou" in summary:
                judged = f"{percent(summary['miou'])} % mIoU"
            else:
                judged = f"a loss of {summary['held_out_loss']:.5g} on held-out images"
            say(f"{run.recipe.name}: {judged} after {clock(self.seconds[-1])}{left}")

    def _train_one(self, taken: TakenJob, slot: int) -> str | None:
        """Trains a job and says why its runs did not all come to their end, None if they did."""
        job, sweep = taken.job, self.sweep
        environment = os.environ | {
            "OMP_NUM_THREADS": str(sweep.threads or max(1, (os.cpu_count() or 1) // sweep.at_once)),
            HANDED_OVER: " ".join(claim.lend() for claim in taken.claims.values()),
        }
        if sweep.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(sweep.gpus[slot % len(sweep.gpus)])
        job.prepare()
        with job.log.open("ab") as log, self.lock:  # a signal reaches the process whenever it arrives, and once
            if self.received is not None:
                return STOPPED
            start, began = log.tell(), any(run.state() == "begun" for run in job.runs)
            process = subprocess.Popen(
                command_of(job),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal would reach it twice, and twice means: at once
            )
            self.processes[taken] = process
        say(f"[{taken.number}/{self.jobs.count}] {job.name}: {'going on' if began else 'started'}, output in {job.log}")
        return self._end(taken, self._wait(taken, process), start)

    def _wait(self, taken: TakenJob, process: subprocess.Popen) -> int:
        return process.wait()

    def _end(self, taken: TakenJob, code: int, start: int) -> str | None:
        """Why the runs of a job did not all come to their end, None if they did; the output begins at `start`."""
        job = taken.job
        unfinished = [run.recipe.folder for run in job.runs if run.state() != "done"]
        # a signal may come as it ends
        if (code == 0 or self.received is not None) and not unfinished:
            return None
        if self.received is not None:
            return STOPPED
        with self.lock:
            reason = f"exit code {code}"
            others = [self.jobs.fail(folder, taken.claims[folder], reason) for folder in unfinished]
        if any(others):
            return f"has ended here with exit code {code}, and is trained by {next(filter(None, others))} now"
        lines = job.log.read_bytes()[start:].decode(errors="replace").splitlines()
        end = "\n".join([f"    {line}" for line in lines if line.strip()][-SHOWN:])
        return f"failed with exit code {code}; the end of {job.log}:\n{end}"


class Searching(Runs):
    """Trains the trials of searches: what came of each is told to the others, and those that fall behind are ended."""

    def _wait(self, taken: TakenJob, process: subprocess.Popen) -> int:
        return self.jobs.watch(taken, process, POLL)

    def _end(self, taken: TakenJob, code: int, start: int) -> str | None:
        return None if self.jobs.end(taken) else super()._end(taken, code, start)

    def _tell_results(self, taken: TakenJob) -> None:
        say(self.jobs.told(taken))


def search(plan: Plan) -> None:
    """Trains the teachers, then tries settings until each method has had its trials; leaves where a signal came."""
    teachers = Runs(plan.sweep, [Job([teacher]) for teacher in plan.teachers])
    teachers.train()
    leave_where_asked(teachers)
    if teachers.jobs.failed:
        raise ValueError("a teacher's training has failed, so there is nothing to search; its log says why")
    methods = [Method(plan.sweep, one) for one in plan.tried]
    trials = Searching(plan.sweep, Trials(methods))
    trials.train()
    leave_where_asked(trials)
    for method in methods:
        say(method.told_best())


def leave_where_asked(runs: Runs) -> None:
    """Ends with the exit code of the signal that came, if one did."""
    if runs.received is not None:
        sys.exit(128 + runs.received)


def main() -> None:
    options = ask()
    plan = read_plan(options.sweep, options.overrides, options.only, tuned)
    if plan.tried and options.slurm is not None:
        raise ValueError(
            f"--slurm: the search of {options.sweep} has not come to its end; make it first, in as many processes as you "
            f"like (srun {command('sweep', options.sweep)})"
        )
    for one in plan.tried if options.dry_run else ():
        words = ", ".join(plan.sweep.search.parameters_of(one.recipe))
        say(f"search  {one.folder / one.method}: {plan.sweep.search.trials} trials of {words}")
    if plan.tried and not options.dry_run:
        search(plan)
        plan = read_plan(options.sweep, options.overrides, options.only, tuned)
    missing = [run for run in plan.runs if not is_over(run.recipe.folder)]  # or a kill has left its claim
    jobs = [Job([run]) for run in missing]
    if options.together or plan.sweep.together:
        jobs = side_by_side(missing)
    if options.slurm is not None:
        slurm = read_slurm(plan.sweep, options.sweep, options.slurm)
        return submit(plan, slurm, jobs, lambda job: command_of(job)[1:], dry_run=options.dry_run)
    if options.dry_run:
        for run in [*plan.teachers, *plan.runs]:
            say(f"{run.state():5}  {run.recipe.folder}  {' '.join([run.path, *run.recipe.assignments])}")
        for job in jobs:
            if len(job.runs) > 1:
                say(f"together  {job.name}")
        return
    done = sum(run.state() == "done" for run in plan.runs)
    if done:
        say(f"{done} of {len(plan.runs)} runs are done already")
    runs = Runs(plan.sweep, [Job([teacher]) for teacher in plan.teachers] + jobs)
    runs.train()
    leave_where_asked(runs)
    try:
        show(plan)
    finally:  # a table that cannot be made keeps nothing else from being told
        failed = [folder.name for folder in sorted(runs.jobs.failed)]
        if failed:
            say(f"{counted(len(failed), 'run')} failed: {', '.join(failed)}")
    if failed:
        sys.exit(1)


def show(plan: Plan) -> None:
    """Compares what is done of the sweep, by this call or an earlier one, if there is anything, and tells what is not."""
    done = [run for run in plan.runs if run.state() == "done"]
    if done and all(run.recipe.judged_by_loss for run in done):
        say("These runs are judged by the loss on held-out images and have no mIoU, so there is no table of them.")
    elif done:
        folders = dict.fromkeys(str(run.recipe.folder.parent) for run in plan.runs)
        folder = common_folder(find_runs(folders, skip_unfinished=True)) / "comparison"
        with claimed(folder.with_name("comparison-claim")) as is_mine:  # those that end with this one wait for it
            if is_mine:
                runs = find_runs(folders, skip_unfinished=True)  # others may have finished some meanwhile
                missing = missing_runs([run.recipe.folder for run in plan.runs], folders)
                with replacing(folder, folder=True) as partial:
                    write_comparison(_compared(runs, missing, folder), partial)
        say("\n" + (folder / "table.md").read_text().partition("\n\n![")[0])


def _compared(runs: list[FinishedRun], missing: list[str], folder: Path) -> Comparison:
    try:
        return compare(runs, missing=missing)
    except ValueError as error:
        again = command("compare", folder.parent)
        raise ValueError(f"the runs are trained, and their table could not be made: {error} ({again})") from None


if __name__ == "__main__":
    run_command(main)
