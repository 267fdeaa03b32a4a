"""wandb, where it is wanted: it never asks, and when it fails the training goes on without it."""

import netrc
import os
from pathlib import Path

from segkd.runner.console import say
from segkd.runner.recipe import Recipe


class Dashboard:
    """One wandb run, or none. `run_id` continues the run a checkpoint knows."""

    def __init__(self, recipe: Recipe, run_id: str | None):
        self.run = None
        mode = recipe.tracking.wandb
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if has_account() else "offline")
        if mode == "online" and not has_account():  # wandb would stop the run and ask
            say(
                "wandb: no account is configured (wandb login); this run is kept offline, `wandb sync` uploads it later"
            )
            mode = "offline"
        if mode != "disabled":
            self._try(self._start, recipe, run_id, mode)

    @property
    def run_id(self) -> str | None:
        """What a resume needs to go on with the same wandb run."""
        return self.run.id if self.run else None

    def log(self, values: dict) -> None:
        """Logs one row; `iteration` in it is the x axis."""
        self._try(lambda: self.run.log(values))

    def log_evaluation(self, iteration: int, pictures: list[Path], columns: list[str], classes: list[list]) -> None:
        """The panels of one evaluation and its table of classes."""

        def send() -> None:
            import wandb

            self.run.log(
                {
                    "iteration": iteration,
                    "panels": [wandb.Image(str(file), caption=file.stem) for file in pictures],
                    "classes": wandb.Table(columns=columns, data=classes),
                }
            )

        self._try(send)

    def summarize(self, values: dict) -> None:
        """The run's closing numbers."""
        self._try(lambda: self.run.summary.update(values))

    def close(self) -> None:
        """Ends the wandb run."""
        self._try(lambda: self.run.finish())

    def _start(self, recipe: Recipe, run_id: str | None, mode: str) -> None:
        import wandb  # here: where it is missing or broken, those who disable it should not notice

        self.run = wandb.init(
            project=recipe.tracking.project,
            group=recipe.tracking.group,
            name=recipe.name,
            id=run_id,
            resume="allow",
            mode=mode,
            dir=recipe.folder,
            config=recipe.model_dump(mode="json", by_alias=True),
            settings=wandb.Settings(silent=True, console="off", init_timeout=60),
        )
        # our own step: wandb's must rise, and points behind it would be lost after a resume from an older checkpoint
        self.run.define_metric("iteration")
        self.run.define_metric("*", step_metric="iteration")

    def _try(self, action, *given) -> None:
        if self.run is None and action != self._start:
            return
        try:
            action(*given)
        except Exception as error:  # whatever is wrong with a dashboard, it must not cost a training
            say(
                f"wandb is left out from here on: {(str(error).splitlines() or [repr(error)])[0][:200]}; "
                f"metrics.jsonl has everything"
            )
            self.run = None


def has_account() -> bool:
    """Whether wandb can log in without asking: a key in the environment, or in ~/.netrc as `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
