"""The report of a run that nothing can be scored in: the loss on held-out images judges it, and it says so."""

from torch import Tensor

from segkd.runner.console import number, say
from segkd.runner.scoring.cost import latency
from segkd.runner.scoring.evaluation import Stopped
from segkd.runner.scoring.held_out import TOTAL, HeldOut, judge
from segkd.runner.training.closing import closing_table, row
from segkd.runner.training.page import Shown
from segkd.runner.training.report import Report, time_paragraphs
from segkd.runner.training.stop_signal import GRACE, StopSignal

JUDGED_BY = "the loss on held-out images"


class LossReport(Report):
    """As Report, of a student without a head, or of one whose images have no labels: there is no mIoU."""

    def score(self, stop: StopSignal) -> tuple[HeldOut | None, dict]:
        """The losses on the held-out images; none where a signal came first."""
        try:
            with stop.waiting(GRACE):
                graph, student = self.state.graph, self.state.student
                result = judge(graph, student, self.val_set, self.recipe, self.accelerator, stop.noted)
        except Stopped:
            return None, {}
        self.state.note_scores(result.values)
        return result, {}

    def add_evaluation(self, result: HeldOut, others: dict) -> None:
        """The evaluation's line on the console."""
        if not self.accelerator.is_main_process:
            return
        state, recipe = self.state, self.recipe
        terms = " ".join(
            f"{name.removeprefix('held_out/')} {value:.5g}" for name, value in result.values.items() if name != TOTAL
        )
        loss = f"loss on {len(self.val_set)} held-out images {result.values[TOTAL]:.5g}"
        say(f"{recipe.name} {state.iteration}/{recipe.schedule.iterations} | {loss} | {terms}")
        self.dashboard.summarize({f"best_{TOTAL}": state.best_loss, "best_iteration": state.best_iteration})
        self.write_page_under_way(Shown(state.iteration, result.values))

    @property
    def best(self) -> dict[str, float]:
        """What chose the student."""
        return {TOTAL: self.state.best_loss}

    def judged(self, scored: dict) -> dict:
        """How good the student is, and by what."""
        return {"judged_by": JUDGED_BY, **{key: value for key, value in scored.items() if key.startswith("held_out")}}

    def classes(self) -> dict:
        """What config.json says of the student's classes: of features alone there are none."""
        return super().classes() if self.recipe.networks["student"].has_head else {}

    def closing_rows(self, scored: dict, tested: dict, image: Tensor) -> list[dict]:
        """The student alone: losses that others have learnt by do not compare."""
        title, student = self.recipe.networks["student"].title, self.state.student.eval()
        return [row("student", title, student, self.state.best_loss, latency(student, image), TOTAL)]

    def text(self, rows: list[dict], history: list[dict], scored: dict, tested: dict) -> str:
        """report.md: why there is no mIoU, the table, the curves."""
        run, state, recipe = self.run, self.state, self.recipe
        losses = [one[TOTAL] for one in history if TOTAL in one] or [state.best_loss]
        why = "The student has no head" if not recipe.networks["student"].has_head else "The images have no labels"
        paragraphs = [
            f"# {recipe.name}",
            closing_table(rows),
            *(f"The training {words}." for words in self.ended_early().values()),
            f"{why}, so there is no mIoU: the run is judged by {JUDGED_BY} ({len(self.val_set)} of "
            f"`{recipe.data.scored}`), which says nothing of classes. The student is the checkpoint of iteration "
            f"{state.best_iteration}, the lowest of {len(losses)} ({number(state.best_loss, '{:.5g}')}); the last one has "
            f"{number(losses[-1], '{:.5g}')}. Made by `{run.recipe_file.name}` in `{run.environment_file.name}`.",
            f"![curves]({run.curves_file.name})",
            *time_paragraphs(history, recipe),
        ]
        return "\n\n".join(paragraphs) + "\n"
