"""Trains a recipe: `accelerate launch runner/distill.py recipe.yaml [key=value ...] [--resume | --overwrite]`.

Data flows one way: recipe -> parts -> graph -> loop -> run folder. This file is the loop; what stands between two of
its steps, the scores and checkpoints, is in training/between_steps.py.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from segkd.runner.command import add_recipe, ask_early, new_parser, run_command
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.seeds import seed_for
from segkd.runner.recipe.together import read_together
from segkd.runner.run_folder.folder import RunFolder


def ask() -> tuple[argparse.Namespace, list[Recipe]]:
    """The options, and the recipe they name, or those of a file that lists several, checked."""
    parser = new_parser("Train a recipe.")
    add_recipe(parser, ", or of a file that lists several under `together`, to be trained side by side")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run in the run folder")
    again.add_argument("--overwrite", action="store_true", help="delete the run in the run folder and start over")
    again.add_argument(
        "--deliver", action="store_true", help="deliver a stopped run as it stands; RECIPE may be its run folder"
    )
    options = parser.parse_intermixed_args()
    run = RunFolder(Path(options.recipe).resolve()) if options.deliver and Path(options.recipe).is_dir() else None
    if run is not None:
        options.recipe = str(run.recipe_file)
        options.overrides.append(f"tracking.folder={json.dumps(str(run.path.parent))}")
    recipes = read_together(options.recipe, options.overrides, trust_checkpoint=options.trust_checkpoint)
    if run is not None and recipes[0].folder.resolve() != run.path.resolve():
        raise ValueError(f"{run.path} holds the run {recipes[0].name}; give the folder that name again")
    return options, recipes


ask = ask_early(ask, __name__)  # before the imports that take seconds

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from segkd.runner.building.device import average_gradients, loss_scale, start_accelerator
from segkd.runner.building.graph import weighted
from segkd.runner.building.optimizers import set_rates, take_step
from segkd.runner.console import say
from segkd.runner.loading.batch import Batch
from segkd.runner.loading.data_sets import build_training_batches, build_training_sets, build_val_set, build_views
from segkd.runner.loading.first_look import look_at_data
from segkd.runner.predicting.pseudo_labels import make_pseudo_labels
from segkd.runner.run_folder.opening import is_done, refuse_undeliverable, refuse_used_folder
from segkd.runner.scoring.evaluation import Stopped, build_metrics
from segkd.runner.training.between_steps import deliver, leave, score_and_save, score_late
from segkd.runner.training.budget import fix_iterations
from segkd.runner.training.estimate import telling_of_memory
from segkd.runner.training.gradients import gradient_report
from segkd.runner.training.needed import needed_first
from segkd.runner.training.stop_signal import GRACE, MOMENT, StopSignal
from segkd.runner.training.training import Training, failing_alone, going, raise_failures, share_predictions


def train(
    recipes: list[Recipe],
    accelerator: Accelerator,
    *,
    resume: bool,
    overwrite: bool = False,
    as_it_stands: bool = False,
    place: str = "",
) -> None:
    """Trains a recipe, from its start or its last checkpoint, to its end; leaves the run folder behind.

    With `as_it_stands` it is not trained any further, and delivered.

    Several recipes are trained side by side: on the same batches, with one forward of a teacher that they share. Each
    ends with the same bits as if it were trained alone.

    Args:
        place: which training of several this is, such as `1 of 3: `.
    """
    first = recipes[0]
    train_set, unlabelled_set = build_training_sets(first, make_pseudo_labels(first, accelerator))
    val_set = build_val_set(first)
    look_at_data(first, train_set, unlabelled_set, val_set)
    for recipe in recipes:
        if not recipe.judged_by_loss:
            build_metrics(recipe, val_set)  # what is wrong with their arguments is told now
    views = build_views(first)
    sets, trainings = {"labelled": train_set, "unlabelled": unlabelled_set}, []
    if first.schedule.is_open:
        refuse_used_folder(first, resume=resume, overwrite=overwrite)
        recipes = [first := fix_iterations(first, sets, views, accelerator, take_training_step, anew=overwrite)]
    for recipe in recipes:
        trainings.append(Training.build(recipe, sets, accelerator, beside=trainings))
    # only now: a recipe that cannot be built leaves no run folder behind, and --overwrite does not cost the old run
    try:
        for training in trainings:
            training.open(val_set, accelerator, resume=resume, overwrite=overwrite, place=place)
        take_all_steps(trainings, train_set, unlabelled_set, views, accelerator, as_it_stands=as_it_stands)
    except BaseException:
        for training in trainings:  # a process that goes on may train again
            training.close(failed=True)
        raise


def take_all_steps(
    trainings: list[Training],
    train_set: Dataset,
    unlabelled_set: Dataset | None,
    views: tuple[dict, dict],
    accelerator: Accelerator,
    *,
    as_it_stands: bool,
) -> None:
    """The loop: all the iterations that trainings side by side have left, their evaluations, and what they deliver."""
    for training in trainings if as_it_stands else ():
        training.refuse_unscored()
    first = trainings[0].recipe
    iterations = first.schedule.iterations
    left = [training for training in trainings if not (as_it_stands or training.is_over)]
    for training in left:
        training.refuse_other_given()
    start = min((training.state.iteration for training in left), default=iterations)
    batches = build_training_batches(first, train_set, unlabelled_set, views, accelerator, start=start)
    shared = share_predictions(trainings)
    scored: dict[tuple[nn.Module, str], dict] = {}
    for training in trainings:
        with telling_of_memory(training.recipe, training.graph, accelerator, scoring=True):
            training.report.score_teachers(scored)
        training.wrapped.train()
        training.tracking.restart_clock()
    stop = StopSignal(accelerator)
    try:
        for training in trainings:
            if training.state.unscored:
                score_late(training, trainings, accelerator, stop)
        for iteration in range(start, iterations):
            if all(training.is_over for training in going(trainings)):
                break
            iterate(trainings, batches, iteration, accelerator, stop)
            shared.clear()
        deliver(trainings, accelerator, stop)
    except Exception:
        stop.end()  # a process that goes on obeys signals again; one that leaves may be sent the same one once more
        raise
    stop.end()
    accelerator.free_memory()
    raise_failures(trainings)


def iterate(
    trainings: list[Training], batches: Iterator[Batch], iteration: int, accelerator: Accelerator, stop: StopSignal
) -> None:
    """One iteration: its images, a step of each training, and what is due after it."""
    since = time.perf_counter()
    try:
        with stop.waiting(GRACE if accelerator.num_processes > 1 else MOMENT):
            parts = [next(batches).to(accelerator.device) for _ in range(trainings[0].recipe.loop.accumulate)]
    except Stopped:
        leave(trainings, accelerator, stop)
    waited = since, time.perf_counter()
    # before a kill, some of those side by side may have been saved later than others
    stepping = [training for training in going(trainings, at=iteration) if not training.is_over]
    for training in stepping:
        with failing_alone(training, trainings), telling_of_memory(training.recipe, training.graph, accelerator):
            training.graph.stopwatch.marks.append(("data", *waited))
            take_training_step(training, parts, accelerator)
    stopping = stop.asked()
    for training in going(stepping):
        with failing_alone(training, trainings):
            score_and_save(training, accelerator, stop, stopping)
    if stopping or any(training.state.unscored for training in going(trainings)):
        leave(trainings, accelerator, stop)


def take_training_step(training: Training, parts: list[Batch], accelerator: Accelerator) -> None:
    """One optimizer step of one training, its batch computed in parts."""
    recipe, graph, wrapped, state = training.recipe, training.graph, training.wrapped, training.state
    tracking, iteration, watch = training.tracking, state.iteration, training.graph.stopwatch
    # all random draws of a step come from (seed, iteration, process): a resume needs no generator's state
    torch.manual_seed(seed_for(recipe.seed, "step", iteration, accelerator.process_index))
    set_rates(state.optimizers, iteration)
    weights = graph.weights_at(iteration)
    # a list: processes average their gradients in its order
    adversaries = [label for label in state.adversaries if label in weights]
    done = iteration + 1
    inspects = recipe.tracking.gradients is not None and done % recipe.tracking.gradients == 0

    for number, batch in enumerate(parts, start=1):
        # processes average their gradients once a step, with its last part
        with accelerator.no_sync(wrapped) if number < len(parts) else nullcontext():
            graph.keep_predictions = inspects or bool(adversaries)
            losses = wrapped(batch.images, batch.target, iteration, batch.unlabelled, batch.places, batch.extra)
            if inspects:
                tracking.note(gradient_report(graph, losses, weights, loss_scale(accelerator)))
            with watch.measure("backward"):
                accelerator.backward(sum(weighted(losses, weights).values()) / len(parts))
        for label in adversaries:  # a loss's own discriminator learns from the same forward
            with watch.measure("losses"):
                (graph.adversary_loss(label) / len(parts)).backward()
        tracking.add(losses)
    with watch.measure("optimizer"):
        training.norm = None
        # an infinite bound measures the norm and clips nothing
        if recipe.writes_at(done) or recipe.loop.clip_norm is not None:
            bound = recipe.loop.clip_norm or float("inf")
            training.norm = accelerator.clip_grad_norm_(state.parameters(), bound)
        take_step(state.optimizers, accelerator.scaler)
        for label in adversaries:
            average_gradients(graph.losses[label].adversary, accelerator)  # adversaries are no part of DDP's module
            state.adversaries[label].step()
            state.adversaries[label].zero_grad()
        state.update_averages()
    state.iteration = done
    tracking.end_step(done, state.optimizers[0].param_groups[0]["lr"], weights)


def distill(
    recipes: list[Recipe], *, resume: bool = False, overwrite: bool = False, as_it_stands: bool = False
) -> None:
    """Trains recipes side by side, and before them what they need, on the device of this process.

    A resume leaves those alone that are done. With `as_it_stands` they are stopped runs, which are delivered.
    """
    accelerator = start_accelerator(recipes[0])
    if as_it_stands:
        for recipe in recipes:
            refuse_undeliverable(recipe)
        train(recipes, accelerator, resume=True, as_it_stands=True)
    else:
        done = [recipe for recipe in recipes if resume and is_done(recipe)]
        for recipe in done if accelerator.is_main_process else ():
            say(f"{recipe.name} is done, nothing is left to do: its report is {RunFolder(recipe.folder).page_file}")
        left = [recipe for recipe in recipes if recipe not in done]
        needed = needed_first(left, resume=resume, overwrite=overwrite)
        count = len(needed) + 1
        for number, one in enumerate(needed, start=1):
            train([one], start_accelerator(one), resume=True, place=f"{number} of {count}: ")
        if left:
            accelerator = start_accelerator(left[0]) if needed else accelerator  # each in its own recipe's precision
            place = f"{count} of {count}: " if needed else ""
            train(left, accelerator, resume=resume, overwrite=overwrite, place=place)
    accelerator.end_training()


def main() -> None:
    options, recipes = ask()
    distill(recipes, resume=options.resume, overwrite=options.overwrite, as_it_stands=options.deliver)


if __name__ == "__main__":
    run_command(main)
