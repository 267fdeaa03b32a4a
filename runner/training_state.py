"""What training changes, in one object: networks, losses, optimizers, how far it has come. A resume needs no more."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from segkd.runner import checkpoint
from segkd.runner.graph import Graph
from segkd.runner.recipe import Recipe

PROGRESS = ("iteration", "best_miou", "best_iteration", "wandb_id")


@dataclass
class TrainingState:
    """The state between two iterations.

    Attributes:
        rivals: label of a loss with an adversary of its own (SKD's discriminator) -> the adversary's optimizer.
        average: the moving average of the student's weights, where the recipe asks for one.
        scaler: of fp16 gradients, None in other precisions.
        iteration: how many are finished. best_miou, best_iteration: of the best evaluation so far.
        wandb_id: the run a resume goes on with.
    """

    graph: Graph
    optimizer: torch.optim.Optimizer
    rivals: dict[str, torch.optim.Optimizer]
    average: torch.optim.swa_utils.AveragedModel | None
    scaler: torch.amp.GradScaler | None
    iteration: int = 0
    best_miou: float = -1.0
    best_iteration: int = 0
    wandb_id: str | None = None

    @classmethod
    def begin(
        cls, recipe: Recipe, graph: Graph, optimizer: torch.optim.Optimizer, accelerator: Accelerator
    ) -> "TrainingState":
        """The state before the first iteration; graph and optimizer are where they will be trained."""
        rivals = {
            label: loss.adversary_optimizer()
            for label, loss in graph.losses.items()
            if hasattr(loss, "adversary_optimizer")
        }
        average = None
        if recipe.loop.ema is not None:
            average = torch.optim.swa_utils.AveragedModel(
                graph.network("student"),
                multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.loop.ema),
                use_buffers=True,
            )
        return cls(graph, optimizer, rivals, average, accelerator.scaler)

    @property
    def student(self) -> nn.Module:
        """The network that is scored and delivered: the student, or the average of its weights."""
        return self.average.module if self.average else self.graph.network("student")

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer trains; the adversaries' parameters are not among them."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def note_score(self, miou: float) -> None:
        """Remembers the finished iteration if it is the best so far."""
        if miou > self.best_miou:
            self.best_miou, self.best_iteration = miou, self.iteration

    def save(self, folder: Path, keep_last: int) -> None:
        """Writes the checkpoint of the finished iteration into a run folder.

        Raises:
            FloatingPointError: a weight is not finite. A resume would go on from it for ever.
        """
        for name, parameter in self.graph.named_parameters():
            if not torch.isfinite(parameter).all():
                raise FloatingPointError(
                    f"{name} is not finite after iteration {self.iteration}, so it is not saved; lower optimizer.lr "
                    f"or set loop.clip_norm, and go on from the checkpoint before it with --resume"
                )
        state = {
            "graph": self.graph.state_dict(), "optimizer": self.optimizer.state_dict(),
            "rivals": {label: rival.state_dict() for label, rival in self.rivals.items()},
            "average": self.average.state_dict() if self.average else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }  # fmt: skip
        checkpoint.save(
            folder, self.iteration, self.student.state_dict(), state, keep_last=keep_last, best=self.best_iteration
        )

    def restore(self, path: Path) -> None:
        """Goes back to a checkpoint of the same recipe. ValueError where it is damaged or another network's."""
        state = checkpoint.load(path)
        checkpoint.restore(self.graph, state["graph"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        for label, rival in self.rivals.items():
            rival.load_state_dict(state["rivals"][label])
        if self.average:
            self.average.load_state_dict(state["average"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        for name in PROGRESS:
            setattr(self, name, state["progress"][name])
