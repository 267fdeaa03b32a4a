"""wandb, where it is wanted: it never asks, and when it fails the training goes on without it.

A server that cannot be reached means files to be uploaded later.
"""

import functools
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from segkd.runner.console import say
from segkd.runner.recipe.addresses import has_account
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.student_folder import StudentFolder
from segkd.runner.recipe.text_file import read_text
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.replacing import write_text

PATIENCE = 20.0  # seconds for the server to answer as a run starts
LAST_PATIENCE = 60.0  # seconds for it to take what is left as a run ends


def optional(method: Callable) -> Callable:
    """A method of Dashboard: does nothing without a wandb run, and where it fails there is none from then on."""

    @functools.wraps(method)
    def attempt(board: "Dashboard", *given: object) -> None:
        if not board.wanted:
            return
        try:
            method(board, *given)
        except Exception as error:  # whatever is wrong with a dashboard, it must not cost a training
            say(f"wandb is left out from here on: {_reason(error)}; metrics.jsonl has everything")
            board.run, board.wanted = None, False

    return attempt


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:200]


class Dashboard:
    """One wandb run of the main process, or none. `run_id` continues the run a checkpoint knows."""

    def __init__(self, recipe: Recipe, run_id: str | None, is_main_process: bool = True):
        self.run = None
        mode = recipe.tracking.wandb
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if has_account() else "offline")
        self.wanted = is_main_process and mode != "disabled"
        if self.wanted and mode == "online" and not has_account():  # wandb would stop the run and ask
            say(
                "wandb: no account is configured (wandb login); this run is kept offline, `wandb sync` uploads it later"
            )
            mode = "offline"
        self._start(recipe, run_id, mode)

    @optional
    def _start(self, recipe: Recipe, run_id: str | None, mode: str) -> None:
        import wandb  # here: where it is missing or broken, those who disable it should not notice

        self.wandb = wandb
        # a run that was killed before its first checkpoint has left its id here
        known = RunFolder(recipe.folder).wandb_id_file
        run_id = run_id or (read_text(known).strip() if known.is_file() else None)
        bounded = {"finish_timeout": LAST_PATIENCE, "finish_timeout_raises": True}
        if not bounded.keys() <= getattr(wandb.Settings, "model_fields", {}).keys():  # as younger ones have it
            bounded = {}
        init = functools.partial(
            wandb.init,
            project=recipe.tracking.project,
            group=group_of(recipe),
            job_type="distillation" if any(term.source for term in recipe.losses) else "training",
            tags=tags_of(recipe),
            name=recipe.name,
            id=run_id,
            resume="allow",
            dir=recipe.folder,
            config=recipe.model_dump(mode="json", by_alias=True) | {"method": recipe.method_name},
            settings=wandb.Settings(silent=True, console="off", init_timeout=PATIENCE, **bounded),
        )
        try:
            self.run = init(mode=mode)
        except Exception as error:  # no network, a server that does not answer, a key that it does not know
            if mode != "online":
                raise
            self.run = init(mode="offline")
            say(f"wandb: {_reason(error)}; this run is kept here, and uploaded later by: {self._sync}")
        write_text(known, self.run.id)
        # our own step: wandb's must rise, and points behind it would be lost after a resume from an older checkpoint
        self.run.define_metric("iteration")
        self.run.define_metric("*", step_metric="iteration")
        # the recipe that wandb://entity/project/run reads; from its own folder wandb takes a file without a remark
        copy = Path(self.run.dir) / "recipe.yaml"
        copy.write_text(recipe.dump())
        self.run.save(str(copy), base_path=self.run.dir, policy="now")

    @property
    def _sync(self) -> str:
        """The command that uploads what is kept here."""
        return f"wandb sync {shlex.quote(str(Path(self.run.dir).parent))}"

    @property
    def run_id(self) -> str | None:
        """What a resume needs to go on with the same wandb run."""
        return self.run.id if self.run else None

    @optional
    def log(self, values: dict) -> None:
        """Logs one row; `iteration` in it is the x axis."""
        self.run.log(values)

    @optional
    def log_evaluation(self, iteration: int, pictures: list[Path], columns: list[str], classes: list[list]) -> None:
        """The panels of one evaluation and its table of classes."""
        panels = [self.wandb.Image(str(file), caption=file.stem) for file in pictures]
        table = self.wandb.Table(columns=columns, data=classes)
        self.run.log({"iteration": iteration, "panels": panels, "classes": table})

    @optional
    def summarize(self, values: dict) -> None:
        """The run's closing numbers."""
        self.run.summary.update(values)

    @optional
    def log_student(self, student: StudentFolder, name: str) -> None:
        """The delivered network as an artifact called `name`, with what config.json says of it."""
        artifact = self.wandb.Artifact(name, type="model", metadata=student.read_config())
        for file in sorted(student.path.iterdir()):  # as a directory wandb would tell of it on the console
            artifact.add_file(str(file))
        self.run.log_artifact(artifact, aliases=["best"])

    @optional
    def close(self, failed: bool = False) -> None:
        """Ends the wandb run; what its server does not take in time stays here."""
        try:
            self.run.finish(exit_code=int(failed))
        except Exception as error:
            say(f"wandb: {_reason(error)}; what its server has not got is uploaded by: {self._sync}")
        self.run, self.wanted = None, False


def group_of(recipe: Recipe) -> str:
    """The experiment a run belongs to: its name less the seed it may end on, as in camvid-kl-s2."""
    return recipe.tracking.group or re.sub(r"-s\d+$", "", recipe.name)


def tags_of(recipe: Recipe) -> list[str]:
    """Data set, method and networks, to pick runs by."""
    networks = [
        f"{'student' if name == 'student' else 'teacher'}: {network.title}" for name, network in recipe.networks.items()
    ]
    tags = [recipe.data.dataset, recipe.method_name, *networks]
    return list(dict.fromkeys(tag[:64] for tag in tags))  # wandb takes no longer ones
