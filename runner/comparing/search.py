"""Searches the settings of a sweep's methods with Optuna: each trial is a run, and any number of processes take part.

What has been tried and what came of it stands in <sweep>/search/journal.log, which Optuna locks by creating a file, as
disks of the network can. The trials of a method are numbered from 0, and each has a run folder of its own,
<sweep>/search/<method>/trial-<number>: who has its claim trains it and tells the journal. So a trial whose process is
gone is gone on with by the next one that looks, from its last checkpoint, and none is trained twice.
"""

import json
import math
import shutil
import signal
import subprocess
from pathlib import Path
from types import ModuleType

from segkd.runner.comparing.finished_runs import JOURNAL
from segkd.runner.comparing.search_plan import Parameter, assigned
from segkd.runner.comparing.shared_jobs import TakenJob, claims_of
from segkd.runner.comparing.sweep_plan import Job, Run, Sweep, Tried
from segkd.runner.console import percent
from segkd.runner.recipe.differences import changes
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.recipe.seeds import seed_for
from segkd.runner.run_folder.claim import Claim, Holder, Observer, look
from segkd.runner.run_folder.folder import RunFolder


class Method:
    """The search of one method."""

    def __init__(self, sweep: Sweep, tried: Tried):
        optuna = _optuna()
        self.sweep, self.search, self.tried = sweep, sweep.search, tried
        self.folder = tried.folder / tried.method
        self.states = optuna.trial.TrialState
        tried.folder.mkdir(parents=True, exist_ok=True)
        journal = str(tried.folder / JOURNAL)
        lock = optuna.storages.journal.JournalFileOpenLock(journal)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(journal, lock))
        self.study = optuna.create_study(
            storage=storage,
            study_name=tried.method,
            direction="maximize",
            load_if_exists=True,
            pruner=self._pruner(optuna),
        )
        self._refuse_another_search(journal)
        self._observer = Observer()

    def _pruner(self, optuna: ModuleType) -> object:
        if self.search.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=self.search.startup_trials)
        if self.search.pruner == "none":
            return optuna.pruners.NopPruner()
        recipe = self.tried.recipe
        evaluations = math.ceil(recipe.schedule.iterations / recipe.evaluate.every)
        return optuna.pruners.HyperbandPruner(max_resource="auto" if recipe.schedule.is_open else evaluations)

    def _sampler(self, number: int) -> object:
        """That of one trial, whose draws depend on its number and on what is known when it begins."""
        optuna, seed = _optuna(), seed_for(self.search.seed, "trial", number) % 2**32
        if self.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed)
        return optuna.samplers.TPESampler(n_startup_trials=self.search.startup_trials, seed=seed)

    def _refuse_another_search(self, journal: str) -> None:
        """ValueError where what has been tried was asked for in other words."""
        asked = {
            "search": self.search.model_dump(mode="json", by_alias=True, exclude={"trials", "startup"}),
            **self.tried.recipe.model_dump(mode="json", by_alias=True, exclude={"name"}),
        }
        asked = json.loads(json.dumps(asked))
        before = self.study.user_attrs.get("asked")
        if before is None:
            self.study.set_user_attr("asked", asked)
            return
        changed = "; ".join(changes(before, asked)[:3])
        if changed:
            raise ValueError(
                f"{journal} holds another search of {self.tried.method}; they differ in {changed}. Give the sweep "
                f"another name, or delete {self.tried.folder}"
            )

    def trials(self) -> list:
        """Those that count, as the journal has them now, in their order."""
        return self.study.get_trials(deepcopy=False)[: self.search.trials]

    @property
    def left(self) -> int:
        """How many have not come to an end."""
        return self.search.trials - sum(trial.state.is_finished() for trial in self.trials())

    def take(self) -> TakenJob | None:
        """A trial that nobody trains: one that was begun and left, or else a new one; None where there is none now."""
        for trial in self.trials():
            if trial.state == self.states.RUNNING:
                taken = self._claim(trial.number)
                if taken is not None:
                    return taken
        while len(self.study.get_trials(deepcopy=False)) < self.search.trials:
            number = self.study.ask().number
            if number >= self.search.trials:  # others were faster
                self.study.tell(number, state=self.states.FAIL)
                return None
            taken = self._claim(number)
            if taken is not None:
                return taken
        return None

    def _claim(self, number: int) -> TakenJob | None:
        """The trial, if nobody has it and there is something to train."""
        claim = self._observer.try_to_claim(claims_of(self.run_of(number).path))
        if isinstance(claim, Holder):
            return None
        if self.is_over(number):  # since it was looked at
            claim.release(finished=True)
            return None
        try:
            run = self._run(number)
        except RecipeError as error:  # settings that do not go together
            self.fail(number, claim, "; ".join(error.mistakes))
            return None
        if self.run_of(number).is_finished or self.is_hopeless(number, anew=True):
            claim.release()
            self.complete(number)
            return None
        return TakenJob(Job([run]), number, {run.recipe.folder: claim})

    def _run(self, number: int) -> Run:
        """The run of a trial, whose settings are drawn if they have not been."""
        optuna = _optuna()
        self.study.sampler = self._sampler(number)
        trial = optuna.trial.Trial(self.study, self.trials()[number]._trial_id)
        parameters = self.search.parameters_of(self.tried.recipe)
        settings = [assigned(key, _suggested(trial, key, one)) for key, one in parameters.items()]
        place = [f"tracking.folder={json.dumps(str(self.folder))}", f'name="{self.run_of(number).path.name}"']
        return Run(read(self.tried.path, [*self.tried.given, *place, *settings]), self.tried.path, self.tried.needs)

    def run_of(self, number: int) -> RunFolder:
        """The folder of a trial."""
        return RunFolder(self.folder / f"trial-{number}")

    def is_over(self, number: int) -> bool:
        """Whether the journal has the end of a trial."""
        return self.trials()[number].state.is_finished()

    def is_hopeless(self, number: int, anew: bool = False) -> bool:
        """Reports the evaluations that are new; whether the pruner gives the trial up by the last one.

        Args:
            anew: ask the pruner though none is new. After the last evaluation of all it is not asked.
        """
        known = self.trials()[number]
        trial = _optuna().trial.Trial(self.study, known._trial_id)
        rows = [row for row in self.run_of(number).read_rows() if row.get("miou") is not None]
        new = {step: row for step, row in enumerate(rows, start=1) if step not in known.intermediate_values}
        try:
            for step, row in new.items():
                trial.report(row["miou"], step)
            may_end = bool(new or (anew and rows)) and rows[-1]["iteration"] < self.tried.recipe.schedule.iterations
            return may_end and trial.should_prune()
        except RuntimeError:  # another process has told its end
            return False

    def _tell(self, number: int, value: float | None = None, state: object = None) -> None:
        """The end of a trial, which another process that has seen it may have told before."""
        try:
            self.study.tell(number, value, state, skip_if_finished=True)
        except RuntimeError:  # in this moment
            if not self.trials()[number].state.is_finished():
                raise

    def complete(self, number: int) -> None:
        """Tells the score of a trial that came to its end, or that it was given up, and frees its checkpoints."""
        run = self.run_of(number)
        if not self.is_over(number):
            self.is_hopeless(number)  # the trials to come are measured by all evaluations
            if run.is_finished:
                self._tell(number, run.read_summary()["miou"])
            else:
                self._tell(number, state=self.states.PRUNED)
        self._free(number)

    def fail(self, number: int, claim: Claim, reason: str) -> Holder | None:
        """Tells that a trial has failed; where another process trains it by now, nothing but who."""
        holder = look(claims_of(self.run_of(number).path))
        if holder is not None and holder.token != claim.token and not holder.is_gone:
            return holder
        self._tell(number, state=self.states.FAIL)
        claim.release(failed=reason)
        self._free(number)
        return None

    def free_all(self) -> None:
        """Frees what processes that are gone have left of trials that are over."""
        for trial in self.trials():
            if trial.state.is_finished():
                self._free(trial.number)

    def _free(self, number: int) -> None:
        """Deletes the checkpoints of a trial that is over, and what is left of its claims, unless it is trained."""
        run = self.run_of(number)
        if run.checkpoints.exists() or claims_of(run.path).exists():
            claim = self._observer.try_to_claim(claims_of(run.path))
            if isinstance(claim, Claim):
                shutil.rmtree(run.checkpoints, ignore_errors=True)
                claim.release(finished=True)

    def settings(self) -> list[str] | None:
        """What the best trial was given, and how it was found, as overrides; None while trials are left.

        Raises:
            ValueError: no trial came to its end.
        """
        if self.left:
            return None
        trials = self.trials()
        done = [trial for trial in trials if trial.state == self.states.COMPLETE]
        if not done:
            raise ValueError(
                f"none of the {len(trials)} trials of {self.tried.method} came to its end; see their logs in {self.folder}"
            )
        best = max(done, key=lambda trial: trial.value)  # of equal ones the first
        ends = {"pruned": self.states.PRUNED, "failed": self.states.FAIL}
        counts = {word: sum(trial.state == state for trial in trials) for word, state in ends.items()}
        others = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        counted = f"{len(trials)} trials ({others})" if others else f"{len(trials)} trials"
        parameters = self.search.parameters_of(self.tried.recipe)
        found = [assigned(key, _value(best.params[key], one)) for key, one in parameters.items()]
        told = self.search.told(self.tried.recipe, counted)
        return [*found, f"tuned={json.dumps(told)}"]

    def told_best(self) -> str:
        """What was found, for the console."""
        *found, _ = self.settings()
        best = max(trial.value for trial in self.trials() if trial.state == self.states.COMPLETE)
        return f"{self.tried.method}: {' '.join(found)} had the best of the trials, {percent(best)} % mIoU"


class Trials:
    """The trials of all methods, in the place of SharedJobs: those of the method that has begun fewest come first."""

    def __init__(self, methods: list[Method]):
        self.methods, self.failed = methods, {}
        self.count = sum(method.search.trials for method in methods)
        self._of: dict[Path, tuple[Method, int]] = {}
        self._given_up: set[Path] = set()

    @property
    def left(self) -> dict[int, Job]:
        """As many as there are; which of them are next is not known before."""
        return {number: Job([]) for number in range(sum(method.left for method in self.methods))}

    def take(self) -> TakenJob | None:
        """The next trial; None where there is none now."""
        for method in sorted(self.methods, key=lambda one: len(one.trials())):
            taken = method.take()
            if taken is not None:
                self._of[taken.job.folders[0]] = method, taken.number
                begun = sum(len(one.trials()) for one in self.methods)
                return TakenJob(taken.job, begun, taken.claims)
        return None

    def fail(self, folder: Path, claim: Claim, reason: str) -> Holder | None:
        """As of SharedJobs."""
        method, number = self._of.pop(folder)
        return method.fail(number, claim, reason)

    def elsewhere(self) -> dict[str, Holder]:
        """The trials that others train, by their folders."""
        running = [
            method.run_of(trial.number).path
            for method in self.methods
            for trial in method.trials()
            if not trial.state.is_finished()
        ]
        holders = {str(folder): look(claims_of(folder)) for folder in running if folder not in self._of}
        return {name: holder for name, holder in holders.items() if holder is not None and not holder.released}

    def watch(self, taken: TakenJob, process: subprocess.Popen, poll: float) -> int:
        """Waits for the end of a trial, and asks for it where the pruner gives it up: the exit code."""
        folder = taken.job.folders[0]
        method, number = self._of[folder]
        while True:
            try:
                return process.wait(timeout=poll)
            except subprocess.TimeoutExpired:
                if folder not in self._given_up and (method.is_over(number) or method.is_hopeless(number)):
                    self._given_up.add(folder)
                    process.send_signal(signal.SIGTERM)

    def end(self, taken: TakenJob) -> bool:
        """Whether a trial is over; then its result is told to all.

        Only now: were it told before its process has ended, and this one killed in between, that would train on.
        """
        folder = taken.job.folders[0]
        method, number = self._of[folder]
        if not (method.is_over(number) or method.run_of(number).is_finished or folder in self._given_up):
            return False
        method.complete(number)
        return True

    def told(self, taken: TakenJob) -> str:
        """What came of a trial that is over, in words."""
        folder = taken.job.folders[0]
        method, number = self._of.pop(folder)
        trial = method.trials()[number]
        if trial.state == method.states.COMPLETE:
            return f"{folder}: {percent(trial.value)} % mIoU on the part of train that is kept aside"
        if trial.state == method.states.PRUNED:
            return f"{folder}: given up at {percent(trial.value)} % mIoU, others had more by then"
        return f"{folder}: failed elsewhere"


def tuned(sweep: Sweep, tried: Tried) -> list[str] | None:
    """The overrides that the search of a method has found; None where it has not been, or is not at its end."""
    if not (tried.folder / JOURNAL).is_file():
        return None
    method = Method(sweep, tried)
    found = method.settings()
    if found is not None:
        method.free_all()
    return found


def _suggested(trial: object, key: str, parameter: Parameter) -> object:
    if parameter.choices is not None:
        # as text: Optuna keeps numbers and words, a recipe has lists, too
        texts = [json.dumps(value) for value in parameter.choices]
        return _value(trial.suggest_categorical(key, texts), parameter)
    if parameter.is_whole:
        return trial.suggest_int(key, parameter.low, parameter.high, step=parameter.step)
    return trial.suggest_float(key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def _value(drawn: object, parameter: Parameter) -> object:
    return drawn if parameter.choices is None else json.loads(drawn)


def _optuna() -> ModuleType:
    """Optuna, less what it says about each trial. ValueError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ValueError("search: Optuna is not installed; pip install 'segkd[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
