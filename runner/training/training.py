"""One recipe in training: all that is its own where several are trained side by side on the same batches."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from segkd.runner.building.cached import open_caches
from segkd.runner.building.device import prepare_for_device
from segkd.runner.building.first_look import refuse_broken_teachers
from segkd.runner.building.graph import Graph
from segkd.runner.building.label_counts import count_labels
from segkd.runner.building.losses import build_graph, told_class_weights, told_unread_scores, told_weights
from segkd.runner.building.networks import build_networks, random_starts
from segkd.runner.building.optimizers import build_optimizers
from segkd.runner.building.stopwatch import Stopwatch
from segkd.runner.console import counted, say
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.claim import Claim
from segkd.runner.run_folder.folder import Checkpoint, RunFolder
from segkd.runner.run_folder.opening import device_words, open_run_folder
from segkd.runner.scoring.evaluation import Evaluation
from segkd.runner.scoring.held_out import HeldOut
from segkd.runner.training.given import given_to, refuse_other
from segkd.runner.training.loss_report import LossReport
from segkd.runner.training.report import Report
from segkd.runner.training.state import TrainingState
from segkd.runner.training.tracking import Tracking
from segkd.runner.training.wandb_run import Dashboard


@dataclass
class Training:
    """A recipe with its networks, its state and its run folder.

    Attributes:
        wrapped: the graph as Accelerate wraps it. sets: the images of each stream, labelled and unlabelled. claim: of
            the run folder, on the main process.
        saved: how many iterations the last checkpoint has. norm: of the last step's gradient, None where it was not
            asked for. failure: why it has ended early.
    """

    recipe: Recipe
    graph: Graph
    wrapped: nn.Module
    state: TrainingState
    sets: dict[str, Dataset | None]
    run: RunFolder = field(init=False)
    claim: Claim | None = field(init=False)
    dashboard: Dashboard = field(init=False)
    tracking: Tracking = field(init=False)
    report: Report = field(init=False)
    saved: int = 0
    norm: Tensor | None = None
    failure: str | None = None
    is_open: bool = False

    @classmethod
    def build(
        cls, recipe: Recipe, sets: dict[str, Dataset | None], accelerator: Accelerator, beside: list["Training"]
    ) -> "Training":
        """The recipe's networks on the device, before the first iteration. Nothing is written.

        Args:
            sets: the images of each stream, labelled and unlabelled.
            beside: those trained on the same batches: their frozen networks of the same description are taken over.
        """
        train_set = sets["labelled"]
        counts = functools.partial(count_labels, recipe, train_set, accelerator)
        graph = build_graph(recipe, build_networks(recipe, train_set), train_set.ignore_index, counts)
        graph.stopwatch = Stopwatch(accelerator.device)
        for other in beside:
            graph.share_frozen(other.graph, same_frozen(recipe, other.recipe))
        prepare_for_device(graph, recipe, accelerator)
        refuse_broken_teachers(graph, recipe, train_set, accelerator)
        graph.caches = open_caches(recipe, graph, sets, accelerator, tells=accelerator.is_main_process)
        wrapped, *optimizers = accelerator.prepare(graph, *build_optimizers(recipe, graph))
        return cls(recipe, graph, wrapped, TrainingState.begin(recipe, graph, optimizers, accelerator), sets)

    def open(
        self, val_set: Dataset, accelerator: Accelerator, *, resume: bool, overwrite: bool, place: str = ""
    ) -> None:
        """Makes or takes up the run folder, goes back to its last checkpoint, and begins to keep the record.

        Args:
            place: which training of several this is, such as `1 of 3: `.
        """
        self.run = RunFolder(self.recipe.folder)
        self.claim, last = open_run_folder(self.recipe, accelerator, resume=resume, overwrite=overwrite)
        try:
            self._take_up(last, val_set, accelerator, place)
        except BaseException:  # a process that goes on, as a notebook's, may start it again
            if self.claim is not None:
                self.claim.release()
            raise
        self.is_open = True

    def _take_up(self, last: Checkpoint | None, val_set: Dataset, accelerator: Accelerator, place: str) -> None:
        recipe, state = self.recipe, self.state
        if accelerator.is_main_process:
            much = f"{counted(recipe.schedule.iterations, 'iteration')} of {counted(recipe.data.batch_size, 'image')}"
            starts = random_starts(recipe) if last is None else ()
            say("; ".join([f"{place}{recipe.name}, {much} on {device_words(accelerator.device)}", *starts]))
        if last is not None:
            state.restore(last)
            self.saved = state.iteration
            if accelerator.is_main_process:
                say(f"{recipe.name}: going on from iteration {state.iteration}")
        names = self.sets["labelled"].class_names
        told = [*told_class_weights(self.graph, names), *told_unread_scores(self.graph)]
        told += told_weights(self.graph, recipe.schedule.iterations)
        for line in told if accelerator.is_main_process else ():
            say(f"{recipe.name}: {line}")
        self.dashboard = Dashboard(recipe, state.wandb_id, accelerator.is_main_process)
        state.wandb_id = self.dashboard.run_id
        self.tracking = Tracking(
            recipe, accelerator, self.sets, self.graph.stopwatch, state.iteration, self.dashboard, place
        )
        kind = LossReport if recipe.judged_by_loss else Report
        self.report = kind(recipe, state, val_set, accelerator, self.dashboard)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train."""
        return self.state.is_over(self.recipe)

    def refuse_unscored(self) -> None:
        """ValueError where no evaluation says which checkpoint to deliver."""
        if self.state.best_iteration == 0 and not self.state.unscored:
            raise ValueError(
                f"{self.run.path} has not come to its first evaluation (evaluate.every), so there is nothing to deliver"
            )

    def refuse_other_given(self) -> None:
        """Before the first of the steps that are left: ValueError where teachers or images are not as they were."""
        sets = {
            "the images to train on": self.sets["labelled"],
            "the images without labels": self.sets["unlabelled"],
            "the images to score": self.report.val_set,
        }
        now = given_to(self.recipe, sets)
        refuse_other(self.run.path, self.state.given or {}, now)
        self.state.given = now

    def check_claim(self) -> None:
        """Before anything is written: ClaimLost where another process trains here by now."""
        if self.claim is not None:
            self.claim.check()

    def save(self, accelerator: Accelerator, result: Evaluation | HeldOut | None = None) -> None:
        """A checkpoint of the finished iterations, with the evaluation of the last one if it was scored."""
        self.state.refuse_not_finite()  # on all processes: those beside a training that failed go on together
        if accelerator.is_main_process:
            self.state.save(self.run, self.report.student_config(), self.recipe.loop.keep_last, result, self.claim)
        self.saved = self.state.iteration

    def close(self, *, failed: bool = False) -> None:
        """Lets go of the run folder and the dashboard, once."""
        if not self.is_open:
            return
        self.is_open = False
        self.tracking.close()
        self.dashboard.close(failed)
        if self.claim is not None:
            self.claim.release(failed=self.failure, finished=self.run.is_finished)


def same_frozen(recipe: Recipe, other: Recipe) -> list[str]:
    """Frozen networks that two recipes describe alike, and that see nothing but the images."""
    return [
        name
        for name, network in recipe.networks.items()
        if not network.train and not network.ema_of and not network.prompted_by and network == other.networks.get(name)
    ]


def share_predictions(trainings: list[Training]) -> dict:
    """What frozen networks make of a step's images, for all trainings; to be emptied after each step."""
    shared: dict = {}
    if len(trainings) > 1:
        for training in trainings:
            training.graph.shared, training.tracking.alone = shared, False
    return shared


@contextmanager
def failing_alone(training: Training, trainings: list[Training]) -> Iterator[None]:
    """An error that the user can put right ends one of several trainings; the others go on."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        # a loss or a weight that is not finite is so on every process; memory runs out on one, whose gradients of the
        # next training the others would take for this one's
        is_met_by_all = isinstance(error, FloatingPointError) or training.tracking.accelerator.num_processes == 1
        if len(trainings) == 1 or not is_met_by_all:
            raise
        training.failure = str(error)
        say(f"{training.recipe.name} has failed, the trainings beside it go on: {error}")
        training.close()


def going(trainings: list[Training], at: int | None = None) -> list[Training]:
    """Those that have not failed; only those that have finished this many iterations, where it is given."""
    return [one for one in trainings if one.failure is None and at in (None, one.state.iteration)]


def raise_failures(trainings: list[Training]) -> None:
    """ValueError that names those that have failed, if any."""
    failed = [f"{one.recipe.name} ({one.failure})" for one in trainings if one.failure is not None]
    if failed:
        raise ValueError(f"{len(failed)} of {len(trainings)} trainings failed: {'; '.join(failed)}")
