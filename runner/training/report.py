"""What a run leaves to read: the teachers' scores, a picture and a line at each evaluation, and the closing report."""

import json
import shutil
import statistics
import time
from collections.abc import Callable
from urllib.parse import quote

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from segkd.models._weights import read_weights
from segkd.runner.building.frozen import as_it_is
from segkd.runner.building.networks import trained_by
from segkd.runner.console import clock, markdown, markdown_text, number, percent, say
from segkd.runner.loading.data_sets import build_test_set, fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.checkpoint import export_student
from segkd.runner.run_folder.folder import RunFolder, tile_folder
from segkd.runner.run_folder.metrics_file import phase_seconds, plain, training_seconds
from segkd.runner.run_folder.pretrained import description, from_pretrained
from segkd.runner.run_folder.replacing import write_text
from segkd.runner.scoring.cost import TIMED, flops, in_turn, told_gain
from segkd.runner.scoring.evaluation import (
    Evaluation,
    Stopped,
    build_metrics,
    evaluate,
    evaluate_also,
    scores_of,
    text_of,
    values_in,
)
from segkd.runner.scoring.gallery import image_mious
from segkd.runner.scoring.pictures import curves, drawn, panels, save_tiles, shown_indices
from segkd.runner.training.closing import (
    closing_table,
    row,
    say_closing,
    scored_alike,
    scored_on_the_same,
    unlike,
)
from segkd.runner.training.page import Shown, write_run_page
from segkd.runner.training.state import TrainingState
from segkd.runner.training.stop_signal import GRACE, StopSignal
from segkd.runner.training.wandb_run import Dashboard

CHEAP = 0.01  # share of the time of a run under way that its pages may take


class Report:
    """Tells of one run: on the console, in its folder and on its dashboard."""

    def __init__(
        self, recipe: Recipe, state: TrainingState, val_set: Dataset, accelerator: Accelerator, dashboard: Dashboard
    ):
        self.recipe, self.state, self.val_set = recipe, state, val_set
        self.accelerator, self.dashboard = accelerator, dashboard
        self.run = RunFolder(recipe.folder)
        untrained = {name: state.graph.network(name) for name, network in recipe.networks.items() if not network.train}
        scored = not recipe.judged_by_loss
        if scored:
            build_metrics(recipe, val_set)  # a wrong argument is told now, and not by the first evaluation
        self.frozen = {name: network for name, network in untrained.items() if scored and network.gives_logits}
        self.teachers = {name: network for name, network in self.frozen.items() if not recipe.networks[name].ema_of}
        self.next_page = 0.0  # not before this time

    def score_teachers(self, scored: dict[tuple[nn.Module, str], dict]) -> None:
        """Scores each frozen network once, as a run starts: a wrong file or normalisation shows now, not after days.

        What is made cheaper is scored as it is, too, and told with its speed.

        Args:
            scored: what is known already, by network and the recipe's `evaluate`; what is found here joins it.
        """
        recipe, accelerator, by = self.recipe, self.accelerator, self.recipe.evaluate.model_dump_json()
        # before the first checkpoint a teacher may be trained anew; behind it, a run goes on with no other
        known = self.run.read_teachers() if self.state.iteration else {}
        accelerator.wait_for_everyone()  # all have read before the main process writes
        for name in [name for name, entry in recipe.networks.items() if entry.cheaper_by]:
            network = self.state.graph.network(name)
            if (network, by) not in scored:
                text = told_gain(name, network, recipe, accelerator)
                if accelerator.is_main_process:
                    say(f"{recipe.name}: {text}")
        for name in [name for name in self.teachers if name not in known]:
            network = self.teachers[name]
            if (network, by) not in scored:
                result = evaluate(network, self.val_set, recipe, accelerator, title=f"scoring {name}")
                scored[network, by] = plain(result.values)
                if as_it_is(network) is not network:
                    title = f"scoring {name} as it is"
                    result = evaluate(as_it_is(network), self.val_set, recipe, accelerator, title=title)
                    scored[network, by]["miou_as_it_is"] = result.values["miou"]
            known[name] = scored[network, by]
            if accelerator.is_main_process:
                write_text(self.run.teachers_file, json.dumps(known, indent=2) + "\n")
                text = f"{name} has {percent(known[name]['miou'])} % mIoU on {recipe.data.scored}"
                if "miou_as_it_is" in known[name]:
                    without = " and ".join(word for word in recipe.networks[name].cheaper_by if word != "compiled")
                    text = f"{text}, {percent(known[name]['miou_as_it_is'])} % without {without}"
                say(f"{recipe.name}: {text}{self._seen_by(name)}")

    def _seen_by(self, name: str) -> str:
        """What is said of a teacher that has learnt from the images that settings are chosen by; else empty."""
        data = self.recipe.data
        if data.tuning_part is None:  # most runs, for which no other recipe is read
            return ""
        other = trained_by(self.recipe.networks[name])
        if other is None or other.data.tuning_part == data.tuning_part:
            return ""
        if (other.data.dataset, other.data.train_split) != (data.dataset, data.train_split):
            return ""
        part = f"data.tuning_part={data.tuning_part}"
        return (
            f"; it was trained on these images, so that settings chosen by them trust it too much: give it {part}, too"
        )

    def score(self, stop: StopSignal) -> tuple[Evaluation | None, dict[str, Evaluation]]:
        """The evaluation of the student, and those of what `evaluate.also` names; none where a signal came first."""
        shared = self.val_set, self.recipe, self.accelerator
        try:
            with stop.waiting(GRACE):
                result = evaluate(self.state.student, *shared, "scoring the student", stop.noted)
                with self.state.graph.with_student(self.state.student):
                    others = evaluate_also(self.state.graph, *shared, stop.noted)
        except Stopped:
            return None, {}
        self.state.note_scores(scores_of(result, others), self.recipe.evaluate.metrics)
        return result, others

    def add_evaluation(self, result: Evaluation, others: dict[str, Evaluation]) -> None:
        """The evaluation's line on the console, its panels on the disk and in wandb, its per-class table in wandb."""
        if not self.accelerator.is_main_process:
            return
        state, values = self.state, result.values
        shown = {"mIoU": f"{percent(values['miou'])} %", "pixel accuracy": f"{percent(values['pixel_accuracy'])} %"}
        shown |= {
            title.removesuffix(" (%)"): in_its_unit(values[name], title) for name, title in result.headline.items()
        }
        shown |= {words: f"{percent(other.values['miou'])} %" for words, other in others.items()}
        numbers = " | ".join(f"{title} {value}" for title, value in shown.items())
        if state.iteration < self.recipe.schedule.iterations or len(shown) > 2:  # the run's last line tells the mIoU
            say(f"{self.recipe.name} {state.iteration}/{self.recipe.schedule.iterations} | {numbers}")
        summary = {"best_miou": state.best_miou, "best_iteration": state.best_iteration}
        if state.best_iteration == state.iteration:
            summary |= {f"best_iou/{name}": iou for name, iou in zip(self.val_set.class_names, values["iou_per_class"])}
            summary |= {f"best_{name}": values[name] for name in ("pixel_accuracy", *result.headline)}
        self.dashboard.summarize(summary)
        networks, folder = {**self.frozen, "student": state.student}, self.run.panels(state.iteration)
        files = panels(networks, self.val_set, self.recipe, self.accelerator, folder)
        columns = [name for name in values if name.endswith("_per_class")]
        classes = [list(line) for line in zip(self.val_set.class_names, *(values[name] for name in columns))]
        self.dashboard.log_evaluation(state.iteration, files, ["class", *columns], classes)
        self.write_page_under_way(Shown(state.iteration, scores_of(result, others), result.arrays()))

    def write_page_under_way(self, shown: Shown) -> None:
        """report.html of a run that goes on, unless the last one has been too dear for another so soon."""
        since = time.perf_counter()
        if since >= self.next_page:
            write_run_page(self.recipe, self.val_set, shown)
            now = time.perf_counter()
            self.next_page = now + (now - since) / CHEAP

    def deliver(self, check_claim: Callable[[], None]) -> None:
        """Ends a run: student/ from the best checkpoint, report.md with curves and pictures, the closing table.

        Args:
            check_claim: called once more when all but the student is there, which may have taken long.
        """
        test_set = build_test_set(self.recipe)
        if test_set is None and not (self.needs_other_metrics or self.accelerator.is_main_process):
            return
        recipe, run, state, val_set = self.recipe, self.run, self.state, self.val_set
        student = state.student
        chosen = run.checkpoint(state.best_iteration)
        student.load_state_dict(read_weights(chosen.weights_file))
        if self.needs_other_metrics:
            state.best_scores = self.scored_again()
        tested = {} if test_set is None else self.score_further(test_set)
        if not self.accelerator.is_main_process:
            return
        history = run.read_rows()
        # the checkpoint has the scores, whatever has become of the log; early ones have not
        scored = state.best_scores or next(row for row in history if row["iteration"] == state.best_iteration)
        # the first validation image, as it is scored
        image = next(evaluation_batches(val_set, resize=fixed_resize(recipe, scoring=True)))
        image = image.to(self.accelerator.device).images
        counts = None
        if not recipe.judged_by_loss:
            shutil.copyfile(chosen.images_file, run.images_file)
            counts = run.read_counts()
        rows = self.closing_rows(scored, tested, image)
        curves(history, run.curves_file)
        write_text(run.report_file, self.text(rows, history, scored, tested))
        if counts is not None:
            self.draw_worst(image_mious(counts["counts"]))
        summary = {  # what comparisons of runs read
            **self.judged(scored),
            **self.best,
            **({"test": tested} if tested else {}),
            "rows": rows,
            **self.ended_early(),
            "iteration": state.best_iteration,
            "trained": state.iteration,
            "seconds": training_seconds(history, recipe.data.batch_size),
            "flops": flops(student, image),
            **{key: rows[-1][key] for key in ("parameters", "milliseconds")},
        }
        write_text(run.summary_file, json.dumps(summary, indent=2) + "\n")
        write_run_page(recipe, val_set, Shown(state.best_iteration, scored, counts, rows, tested))
        config = {
            **self.student_config(),
            **self.ended_early(),
            "iteration": state.best_iteration,
            **self.best,
        }
        check_claim()
        write_text(run.recipe_file, recipe.dump())  # a resume may have been told to score more, or something else
        export_student(run, chosen, config)
        if tested:
            self.dashboard.summarize({"test_miou": tested["miou"]})
            say(f"{recipe.name}: {told_test(tested)}")
        say_closing(recipe, rows, run, self.ended_early().get("unfinished", "is done"))
        self.dashboard.log_student(run.student, recipe.name)

    @property
    def needs_other_metrics(self) -> bool:
        """Whether the chosen checkpoint was scored before a resume with other metrics, or other arguments of theirs."""
        known = self.state.best_metrics
        return known is not None and known != self.recipe.evaluate.metrics

    def scored_again(self) -> dict:
        """The scores that chose the student, with the values of the metrics that the recipe asks for by now."""
        metrics = build_metrics(self.recipe, self.val_set)
        title = "scoring the chosen student by other metrics"
        values = plain(evaluate(self.state.student, self.val_set, self.recipe, self.accelerator, title).values)
        before = self.state.best_scores
        own = {name: one for name, one in metrics.items() if name != "confusion"}  # whose values have chosen it
        others = {name: value for name, value in before.items() if name.startswith("miou/")}
        return values_in(before, {"confusion": metrics["confusion"]}) | others | values_in(values, own)

    def score_further(self, test_set: Dataset) -> dict:
        """What the chosen student has on the images of data.test_split, the same on all processes."""
        split = self.recipe.data.test_split
        title = f"scoring the student on {split}"
        values = evaluate(self.state.student, test_set, self.recipe, self.accelerator, title).values
        return {"split": split, "images": len(test_set), **plain(values)}

    @property
    def best(self) -> dict[str, float]:
        """What chose the student."""
        return {"miou": self.state.best_miou}

    def ended_early(self) -> dict[str, str]:
        """Why it has not come to its last iteration, in words: as `stalled` or as `unfinished`; empty if it has."""
        done, last = self.state.iteration, self.recipe.schedule.iterations
        if self.state.has_stalled(self.recipe) and done < last:
            stalled = f"ended after iteration {done} of {last}: {self.recipe.evaluate.patience} evaluations in a row"
            return {"stalled": f"{stalled} brought no gain"}
        if done < last:
            return {"unfinished": f"is unfinished, delivered as it stood after iteration {done} of {last}"}
        return {}

    def judged(self, scored: dict) -> dict:
        """How good the student is, and by what rules."""
        recipe = self.recipe
        return {
            **values_in(scored, build_metrics(recipe, self.val_set)),
            "metrics": recipe.evaluate.metrics,
            "protocol": protocol_words(recipe),
            "absent": recipe.evaluate.absent,
        }

    def student_config(self) -> dict:
        """What config.json says of the student, of whichever checkpoint it is."""
        network = self.recipe.networks["student"]
        return {
            **description(self.state.student, network.source, network.model, network.args),
            **self.classes(),
            "resize": self.recipe.data.resize,
            "recipe": self.recipe.name,
        }

    def classes(self) -> dict:
        """What config.json says of the student's classes."""
        return {
            "class_names": list(self.val_set.class_names),
            "palette": [list(color) for color in self.val_set.palette],
            "ignore_index": self.val_set.ignore_index,
        }

    def closing_rows(self, scored: dict, tested: dict, image: Tensor) -> list[dict]:
        """Teacher, baseline and student: mIoU, parameters and milliseconds per image, timed in turn here and now.

        Args:
            scored: the scores of the evaluation that chose the student. tested: its scores on data.test_split, if any.
        """
        recipe, graph = self.recipe, self.state.graph
        titles = {name: network.title for name, network in recipe.networks.items()}
        mious = {name: scores["miou"] for name, scores in self.run.read_teachers().items()}
        entries = [(name, titles[name], network, mious[name]) for name, network in self.teachers.items()]
        for name in recipe.evaluate.also:
            # one with a prompt cannot be timed alone, several networks together are no network
            stands_alone = name in recipe.networks and name not in graph.prompted_by
            if f"miou/{name}" in scored and stands_alone and name not in self.teachers:
                miou = scored[f"miou/{name}"]
                entries.append((f"{name}, at the same time", titles[name], graph.network(name), miou))
        if recipe.baseline is not None:
            run = RunFolder(read(recipe.baseline.recipe).folder)
            other, network = run.read_recipe(), from_pretrained(run.path).to(image.device)
            alike = scored_alike(recipe, other) and scored_on_the_same(self.run, run)
            miou = run.student.read_config()["miou"] if alike else None
            entries.append((f"student, {other.name}", other.networks["student"].title, network, miou))
        learns = any(term.source is not None for term in recipe.losses)
        title = f"student, {recipe.name}" if learns or recipe.baseline else "student"
        entries.append((title, titles["student"], self.state.student, self.state.best_miou))
        times = in_turn([network.eval() for _, _, network, _ in entries], image, TIMED)
        rows = [row(*entry, statistics.median(taken)) for entry, taken in zip(entries, times)]
        if recipe.baseline is not None:
            trained = self.state.iteration, run.read_summary().get("trained", other.schedule.iterations)
            differs = unlike(recipe, other, trained)
            rows[-2]["unlike"] = differs if alike else "it was scored on other images or in another way"
            theirs = run.read_summary().get("test") if alike and tested else None
            if theirs is not None and theirs["split"] == tested["split"]:
                rows[-2]["test"], rows[-1]["test"] = theirs["miou"], tested["miou"]
        return rows

    def draw_worst(self, mious: np.ndarray) -> None:
        """The tiles of the images that the delivered student sees worst, as many as panels show, where they show others.

        Args:
            mious: of each image of the split, in its order.
        """
        recipe, run = self.recipe, self.run
        worst = np.argsort(mious, kind="stable")[: recipe.tracking.images].tolist()  # NaN is last
        new = sorted({*worst} - {*shown_indices(self.val_set, recipe.tracking.images)})
        networks = {**self.teachers, "student": self.state.student}
        for name, tiles in drawn(networks, self.val_set, new, recipe, self.accelerator):
            save_tiles(tiles, tile_folder(run.panels(self.state.best_iteration), name))

    def text(self, rows: list[dict], history: list[dict], scored: dict, tested: dict) -> str:
        """report.md: the table, the curves, what the metrics say of the chosen checkpoint, the last panels."""
        run, state, split = self.run, self.state, self.recipe.data.scored
        evaluations = [row for row in history if "miou" in row] or [scored]
        pictures = [(file.stem, file.relative_to(run.path).as_posix()) for file in run.last_panels()]
        paragraphs = [
            f"# {self.recipe.name}",
            closing_table(rows),
            *(f"The training {words}." for words in self.ended_early().values()),
            f"The student is the checkpoint of iteration {state.best_iteration}, the best of {len(evaluations)} on "
            f"`{split}` ({percent(state.best_miou)} %); the last one has {percent(evaluations[-1]['miou'])} %. "
            f"Made by `{run.recipe_file.name}` in `{run.environment_file.name}`.",
            *([f"It has {told_test(tested)}."] if tested else []),
            f"![curves]({run.curves_file.name})",
            *time_paragraphs(history, self.recipe),
            text_of(build_metrics(self.recipe, self.val_set), scored),
            *(f"![{markdown_text(name)}]({quote(file)})" for name, file in pictures),
        ]
        return "\n\n".join(paragraphs) + "\n"


def told_test(tested: dict) -> str:
    """`51.20 % mIoU on the 233 images of test, which chose nothing`."""
    return (
        f"{percent(tested['miou'])} % mIoU on the {tested['images']} images of {tested['split']}, which chose nothing"
    )


def time_paragraphs(history: list[dict], recipe: Recipe) -> list[str]:
    """What the time of a step went into, as Markdown; nothing for a log that does not tell."""
    seconds = phase_seconds(history)
    scoring = seconds.pop("scoring", None)
    if not seconds:
        return []
    iterations = history[-1]["iteration"]
    step = training_seconds(history, recipe.data.batch_size) / iterations
    lines = [[phase, f"{1000 * took:.1f}", f"{100 * took / step:.1f}"] for phase, took in seconds.items()]
    told = f"{iterations} iterations took {clock(step * iterations)}"
    told += f", and each evaluation {scoring:.2f} s more." if scoring is not None else "."
    return [markdown(["where a step's time goes", "ms", "%"], [*lines, ["step", f"{1000 * step:.1f}", "100"]]), told]


def in_its_unit(value: float, title: str) -> str:
    """A headline on the console: `12.34 %` where its title ends in (%), else the number."""
    return f"{percent(value)} %" if title.endswith("(%)") else number(value, "{:.4g}")
