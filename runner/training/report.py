"""What a run leaves to read: the teachers' scores, a picture and a line at each evaluation, and the closing report."""

import json
import shutil
from urllib.parse import quote

import torch
from accelerate import Accelerator
from torch import nn

from segkd.models._weights import read_weights
from segkd.runner.building.graph import Graph
from segkd.runner.building.networks import build_network, gives_scores
from segkd.runner.console import markdown, markdown_text, number, percent, say
from segkd.runner.loading.batch import Batch
from segkd.runner.loading.data_sets import fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.run_folder.checkpoint import export_student
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import plain, training_seconds
from segkd.runner.run_folder.pretrained import description
from segkd.runner.run_folder.replacing import write_text
from segkd.runner.scoring.cost import flops, latency
from segkd.runner.scoring.evaluation import Evaluation, build_metrics, evaluate, text_of, values_in
from segkd.runner.scoring.pictures import curves, panels
from segkd.runner.training.state import TrainingState
from segkd.runner.training.tracking import Tracking


def score_teachers(recipe: Recipe, graph: Graph, val_set: torch.utils.data.Dataset, accelerator: Accelerator) -> None:
    """Scores each frozen network once, as a run starts: a wrong file or normalisation shows here, not after days."""
    run = RunFolder(recipe.folder)
    known = run.read_teachers()
    for name, network in recipe.networks.items():
        built = graph.network(name)
        if network.train or network.ema_of is not None or name in known or not gives_scores(built):
            continue
        result = evaluate(built, val_set, recipe, accelerator, title=f"scoring {name}")
        known[name] = plain(result.values)
        if accelerator.is_main_process:
            write_text(run.teachers_file, json.dumps(known, indent=2) + "\n")
            say(f"{recipe.name}: {name} has {percent(result.values['miou'])} % mIoU on {recipe.data.val_split}")
        accelerator.wait_for_everyone()


def record_evaluation(
    state: TrainingState,
    result: Evaluation,
    others: dict[str, Evaluation],
    val_set: torch.utils.data.Dataset,
    recipe: Recipe,
    accelerator: Accelerator,
    tracking: Tracking,
) -> None:
    """The evaluation's line on the console, its panels on the disk and in wandb, its per-class table in wandb."""
    if not accelerator.is_main_process:
        return
    iteration, values = state.iteration, result.values
    shown = {"mIoU": f"{percent(values['miou'])} %", "pixel accuracy": f"{percent(values['pixel_accuracy'])} %"}
    shown |= {title.removesuffix(" (%)"): in_its_unit(values[name], title) for name, title in result.headline.items()}
    shown |= {words: f"{percent(other.values['miou'])} %" for words, other in others.items()}
    numbers = " | ".join(f"{title} {value}" for title, value in shown.items())
    say(f"{recipe.name} {iteration}/{recipe.schedule.iterations} | {numbers}")
    tracking.dashboard.summarize({"best_miou": state.best_miou, "best_iteration": state.best_iteration})
    if state.best_iteration == iteration:
        best = {f"best_iou/{name}": iou for name, iou in zip(val_set.class_names, values["iou_per_class"])}
        best |= {f"best_{name}": values[name] for name in ("pixel_accuracy", *result.headline)}
        tracking.dashboard.summarize(best)
    frozen = {name: state.graph.network(name) for name, network in recipe.networks.items() if not network.train}
    frozen = {name: network for name, network in frozen.items() if gives_scores(network)}
    files = panels(
        {**frozen, "student": state.student},
        val_set,
        recipe,
        accelerator,
        RunFolder(recipe.folder).panels(iteration),
    )
    columns = [name for name in values if name.endswith("_per_class")]
    classes = [list(line) for line in zip(val_set.class_names, *(values[name] for name in columns))]
    tracking.dashboard.log_evaluation(iteration, files, ["class", *columns], classes)


def deliver(state: TrainingState, val_set: torch.utils.data.Dataset, recipe: Recipe, accelerator: Accelerator) -> None:
    """Ends a run: student/ from the best checkpoint, report.md with curves and pictures, the closing table printed."""
    if not accelerator.is_main_process:
        return
    run, network, student = RunFolder(recipe.folder), recipe.networks["student"], state.student
    chosen = run.checkpoint(state.best_iteration)
    student.load_state_dict(read_weights(chosen.weights_file))
    rows = closing_rows(state, val_set, recipe, accelerator)
    write_text(run.report_file, report(recipe, rows, state, val_set))
    shutil.copyfile(chosen.images_file, run.images_file)
    write_text(run.summary_file, json.dumps(summary(state, rows, val_set, recipe), indent=2) + "\n")
    export_student(
        run,
        chosen,
        {
            **description(student, network.source, network.model, network.args),
            "class_names": list(val_set.class_names),
            "palette": [list(color) for color in val_set.palette],
            "ignore_index": val_set.ignore_index,
            "resize": recipe.data.resize,
            "recipe": recipe.name,
            "miou": state.best_miou,
            "iteration": state.best_iteration,
        },
    )
    say(f"\n{closing_table(rows)}\n\n{recipe.name} is done: {run.report_file}, {run.student.path}")


def summary(state: TrainingState, rows: list[dict], val_set: torch.utils.data.Dataset, recipe: Recipe) -> dict:
    """What comparisons of runs read: the closing table's rows, and scores, training seconds and size of the student."""
    history = RunFolder(recipe.folder).read_rows()
    image = first_image(val_set, recipe).images.to(next(state.student.parameters()).device)
    return {
        **values_in(chosen_row(history, state), build_metrics(recipe, val_set)),
        "metrics": recipe.evaluate.metrics,
        "rows": rows,
        "miou": state.best_miou,
        "iteration": state.best_iteration,
        "protocol": protocol_words(recipe),
        "absent": recipe.evaluate.absent,
        "seconds": training_seconds(history, recipe.data.batch_size),
        "flops": flops(state.student, image),
        **{key: rows[-1][key] for key in ("parameters", "milliseconds")},
    }


def closing_rows(
    state: TrainingState, val_set: torch.utils.data.Dataset, recipe: Recipe, accelerator: Accelerator
) -> list[dict]:
    """Teacher, baseline and student: mIoU, parameters and milliseconds per image, timed in turn here and now."""
    run, rows = RunFolder(recipe.folder), []
    for name, network in recipe.networks.items():
        if not network.train and network.ema_of is None and gives_scores(state.graph.network(name)):
            score = run.read_teachers()[name]["miou"]
            rows.append(row(name, recipe, name, state.graph.network(name), score, val_set, accelerator))
    scored = chosen_row(run.read_rows(), state)
    for name in recipe.evaluate.also:
        # one with a prompt cannot be timed alone, several networks together are no network
        if f"miou/{name}" in scored and name in recipe.networks and name not in state.graph.prompted_by:
            network = state.graph.network(name)
            score = scored[f"miou/{name}"]
            rows.append(row(f"{name}, at the same time", recipe, name, network, score, val_set, accelerator))
    if isinstance(recipe.baseline, OtherRecipe):
        other = read(recipe.baseline.recipe)
        delivered = other.networks["student"].model_copy(update={"weights": str(other.folder)})
        network = build_network(
            "student", delivered, val_set.num_classes, other.seed, val_set.class_names, trust=recipe.trust_checkpoint
        )
        network.to(accelerator.device)
        score = RunFolder(other.folder).student.read_config()["miou"]
        rows.append(row(f"student, {other.name}", other, "student", network, score, val_set, accelerator))
    learns = any(term.source is not None for term in recipe.losses)
    rows.append(
        row(
            f"student, {recipe.name}" if learns or recipe.baseline else "student",
            recipe,
            "student",
            state.student,
            state.best_miou,
            val_set,
            accelerator,
        )
    )
    return rows


def row(
    title: str,
    recipe: Recipe,
    name: str,
    network: nn.Module,
    miou: float,
    val_set: torch.utils.data.Dataset,
    accelerator: Accelerator,
) -> dict:
    """One line of the closing table."""
    network.eval()
    return {
        "network": title,
        "model": recipe.networks[name].title,
        "miou": miou,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "milliseconds": latency(network, first_image(val_set, recipe).to(accelerator.device).images),
    }


def first_image(val_set: torch.utils.data.Dataset, recipe: Recipe) -> Batch:
    """The first validation image, as it is scored."""
    return next(evaluation_batches(val_set, resize=fixed_resize(recipe, scoring=True)))


def closing_table(rows: list[dict]) -> str:
    """The closing table as Markdown."""
    lines = [
        [r["network"], r["model"], percent(r["miou"]), f"{r['parameters'] / 1e6:.2f} M", f"{r['milliseconds']:.1f}"]
        for r in rows
    ]
    return markdown(["network", "model", "mIoU (%)", "parameters", "ms per image"], lines)


def chosen_row(history: list[dict], state: TrainingState) -> dict:
    """The row of metrics.jsonl with the evaluation that chose the student."""
    return next(row for row in history if "miou" in row and row["iteration"] == state.best_iteration)


def report(recipe: Recipe, rows: list[dict], state: TrainingState, val_set: torch.utils.data.Dataset) -> str:
    """report.md: the table, the curves, what the metrics say of the chosen checkpoint, the last panels."""
    run = RunFolder(recipe.folder)
    history = run.read_rows()
    curves(history, run.curves_file)
    scored = [r for r in history if "miou" in r]
    pictures = [
        f"![{markdown_text(file.stem)}]({quote(file.relative_to(run.path).as_posix())})" for file in run.last_panels()
    ]
    return (
        "\n\n".join(
            [
                f"# {recipe.name}",
                closing_table(rows),
                f"The student is the checkpoint of iteration {state.best_iteration}, the best of {len(scored)} on "
                f"`{recipe.data.val_split}` ({percent(state.best_miou)} %); the last one has "
                f"{percent(scored[-1]['miou'])} %. Made by `{run.recipe_file.name}` in `{run.environment_file.name}`.",
                f"![curves]({run.curves_file.name})",
                text_of(build_metrics(recipe, val_set), chosen_row(history, state)),
                *pictures,
            ]
        )
        + "\n"
    )


def in_its_unit(value: float, title: str) -> str:
    """A headline on the console: `12.34 %` where its title ends in (%), else the number."""
    return f"{percent(value)} %" if title.endswith("(%)") else number(value, "{:.4g}")
