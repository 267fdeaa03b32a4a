"""What training changes, in one object: networks, losses, optimizers, how far it has come. A resume needs no more."""

import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from segkd.runner.building.graph import Graph
from segkd.runner.building.moving_average import MovingAverage
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder import checkpoint
from segkd.runner.run_folder.claim import Claim
from segkd.runner.run_folder.folder import Checkpoint, RunFolder
from segkd.runner.run_folder.metrics_file import plain
from segkd.runner.scoring.evaluation import Evaluation
from segkd.runner.scoring.held_out import TOTAL, HeldOut

PROGRESS = ("iteration", "best_miou", "best_loss", "best_iteration", "best_scores", "best_metrics", "without_gain", "unscored",
            "wandb_id", "given")  # fmt: skip


@dataclass
class TrainingState:
    """The state between two iterations.

    Attributes:
        adversaries: label of a loss with an adversary of its own (SKD's discriminator) -> the adversary's optimizer, in
            the order of the terms, which all processes share.
        averages: name -> moving average of a trained network's weights: `loop.ema`'s of the student under the name
            `student`, and networks with `ema_of` under their own.
        scaler: of fp16 gradients, None in other precisions.
        iteration: how many are finished. best_miou, best_iteration, best_scores: of the best evaluation so
            far, as the log has them. best_metrics: the further metrics, with arguments, that it was scored by. best_loss: of the best one where the loss on held-out images judges. without_gain:
            how many evaluations there were since the best one. unscored: the last iteration was to be scored and was
            not, since a signal came.
        wandb_id: the run a resume goes on with. given: what it was given when it began (given.py).
    """

    graph: Graph
    optimizers: list[torch.optim.Optimizer]
    adversaries: dict[str, torch.optim.Optimizer]
    averages: dict[str, MovingAverage]
    scaler: torch.amp.GradScaler | None
    iteration: int = 0
    best_miou: float = -1.0
    best_loss: float = math.inf
    best_iteration: int = 0
    best_scores: dict | None = None
    best_metrics: dict[str, dict] | None = None
    without_gain: int = 0
    unscored: bool = False
    wandb_id: str | None = None
    given: dict[str, str] | None = None

    @classmethod
    def begin(
        cls, recipe: Recipe, graph: Graph, optimizers: list[torch.optim.Optimizer], accelerator: Accelerator
    ) -> "TrainingState":
        """The state before the first iteration; graph and optimizers are where they will be trained."""
        adversaries = {
            label: loss.adversary_optimizer()
            for label, loss in graph.losses.items()
            if hasattr(loss, "adversary_optimizer")
        }
        averages = dict(graph.averages)
        if recipe.loop.ema is not None:
            averages["student"] = MovingAverage(graph.network("student"), recipe.loop.ema)
        return cls(graph, optimizers, adversaries, averages, accelerator.scaler)

    @property
    def student(self) -> nn.Module:
        """The network that is scored and delivered: the student, or the average of its weights."""
        return self.averages["student"].module if "student" in self.averages else self.graph.network("student")

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizers train; the adversaries' parameters are not among them."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return [parameter for group in groups for parameter in group["params"]]

    def update_averages(self) -> None:
        """Moves every average a step towards the network it follows."""
        for name, average in self.averages.items():
            average.update(self.graph.network(self.graph.followed.get(name, name)))

    def note_scores(self, scores: dict, metrics: dict[str, dict] | None = None) -> None:
        """Remembers the finished iteration if it is the best so far.

        Args:
            metrics: the further ones that scores were made by, with arguments.
        """
        miou, loss = scores.get("miou", -1.0), scores.get(TOTAL, math.inf)
        self.without_gain += 1
        if miou > self.best_miou or loss < self.best_loss:
            self.best_miou, self.best_loss = miou, loss
            self.best_iteration, self.best_scores, self.without_gain = self.iteration, plain(scores), 0
            self.best_metrics = metrics

    def has_stalled(self, recipe: Recipe) -> bool:
        """Whether as many evaluations in a row as evaluate.patience says have brought no gain."""
        patience = recipe.evaluate.patience
        return patience is not None and not self.unscored and self.without_gain >= patience

    def is_over(self, recipe: Recipe) -> bool:
        """Whether nothing is left to train."""
        return self.iteration >= recipe.schedule.iterations or self.has_stalled(recipe)

    def refuse_not_finite(self) -> None:
        """FloatingPointError where a weight is not finite, or a statistic of a batch norm, which no loss shows.

        A resume would go on from it for ever.
        """
        for name, values in self.graph.state_dict().items():
            # a loss may keep other values than tensors
            if isinstance(values, torch.Tensor) and not torch.isfinite(values).all():
                raise FloatingPointError(
                    f"{name} is not finite after iteration {self.iteration}, so it is not saved; lower optimizer.lr "
                    f"or set loop.clip_norm, and go on from the checkpoint before it with --resume"
                )

    def save(
        self,
        run: RunFolder,
        config: dict,
        keep_last: int,
        evaluation: Evaluation | HeldOut | None = None,
        claim: Claim | None = None,
    ) -> None:
        """Writes the checkpoint of the finished iteration into a run folder, with its evaluation if it was scored.

        Args:
            config: what describes the student.

        Raises:
            ClaimLost: another process trains here by now.
        """
        state = {
            "graph": self.graph.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "adversaries": {label: adversary.state_dict() for label, adversary in self.adversaries.items()},
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }  # fmt: skip
        checkpoint.save(
            run,
            self.iteration,
            self.student.state_dict(),
            state,
            config=config,
            images=evaluation and evaluation.arrays(),
            keep_last=keep_last,
            best=self.best_iteration,
            claim=claim,
        )

    def restore(self, saved: Checkpoint) -> None:
        """Goes back to a checkpoint of the same recipe. ValueError where it is damaged or another network's."""
        state = checkpoint.load(saved)
        checkpoint.restore(self.graph, state["graph"], saved)
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        saved_adversaries = state["adversaries"] if "adversaries" in state else state["rivals"]  # their name at first
        for label, adversary in self.adversaries.items():
            adversary.load_state_dict(saved_adversaries[label])
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        for name in PROGRESS:
            setattr(self, name, state["progress"].get(name))  # checkpoints had no scores at first
        self.without_gain = self.without_gain or 0  # nor this count
