"""Trains a recipe: `accelerate launch runner/distill.py recipe.yaml [key=value ...] [--resume | --overwrite]`.

Data flows one way: recipe -> parts -> graph -> loop -> run folder. This file is the whole of the loop.
"""

import argparse
import time
from contextlib import nullcontext

from segkd.runner.command import add_recipe, ask_early, new_parser, run_command
from segkd.runner.recipe.read import read, read_needed
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.seeds import seed_for


def ask() -> tuple[argparse.Namespace, Recipe]:
    """The options, and the recipe they name, checked."""
    parser = new_parser("Train a recipe.")
    add_recipe(parser)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run in the run folder")
    again.add_argument("--overwrite", action="store_true", help="delete the run in the run folder and start over")
    options = parser.parse_intermixed_args()
    return options, read(options.recipe, options.overrides, trust_checkpoint=options.trust_checkpoint)


ask = ask_early(ask, __name__)  # before the imports that take seconds

import torch
from accelerate import Accelerator

from segkd.runner.building.cached import open_caches
from segkd.runner.building.device import (
    average_gradients,
    prepare_for_device,
    share_running_statistics,
    start_accelerator,
)
from segkd.runner.building.first_look import refuse_broken_teachers
from segkd.runner.building.graph import weighted
from segkd.runner.building.losses import build_graph, rehearse
from segkd.runner.building.networks import build_networks, random_starts
from segkd.runner.building.optimizers import build_optimizers, set_rates, take_step
from segkd.runner.console import say
from segkd.runner.loading.data_sets import build_dataset, build_training_batches, build_training_sets, build_views
from segkd.runner.loading.first_look import look_at_data
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.opening import is_finished, open_run_folder, refuse_used_folder
from segkd.runner.scoring.evaluation import evaluate, evaluate_also, scores_of
from segkd.runner.training.gradients import gradient_report
from segkd.runner.training.report import Report
from segkd.runner.training.state import TrainingState
from segkd.runner.training.stop_signal import StopSignal
from segkd.runner.training.tracking import Tracking
from segkd.runner.training.wandb_run import Dashboard


def train(recipe: Recipe, accelerator: Accelerator, *, resume: bool, overwrite: bool = False) -> None:
    """Trains one recipe, from its start or its last checkpoint, to its end; leaves the run folder behind."""
    train_set, unlabelled_set = build_training_sets(recipe)
    val_set = build_dataset(recipe, recipe.data.val_split)
    look_at_data(recipe, train_set, unlabelled_set, val_set)
    views = build_views(recipe)
    graph = build_graph(recipe, build_networks(recipe, train_set), train_set.ignore_index)
    prepare_for_device(graph, recipe, accelerator)
    refuse_broken_teachers(graph, recipe, train_set, accelerator)
    sets, is_main = {"labelled": train_set, "unlabelled": unlabelled_set}, accelerator.is_main_process
    graph.caches = open_caches(recipe, graph, sets, accelerator, tells=is_main)
    wrapped, *optimizers = accelerator.prepare(graph, *build_optimizers(recipe, graph))
    state = TrainingState.begin(recipe, graph, optimizers, accelerator)

    # only now: a recipe that cannot be built leaves no run folder behind, and --overwrite does not cost the old run
    lock, last = open_run_folder(recipe, accelerator, resume=resume, overwrite=overwrite)
    if last is not None:
        state.restore(last)
        if accelerator.is_main_process:
            say(f"{recipe.name}: going on from iteration {state.iteration}")
    for line in random_starts(recipe) if last is None and accelerator.is_main_process else ():
        say(line)

    run, parts, iterations = RunFolder(recipe.folder), recipe.loop.accumulate, recipe.schedule.iterations
    batches = build_training_batches(recipe, train_set, unlabelled_set, views, accelerator, start=state.iteration)
    dashboard = Dashboard(recipe, state.wandb_id, accelerator.is_main_process)
    state.wandb_id = dashboard.run_id
    tracking = Tracking(recipe, accelerator, len(train_set), state.iteration, dashboard)
    report = Report(recipe, state, val_set, accelerator, dashboard)
    report.score_teachers()
    stop = StopSignal(accelerator)
    wrapped.train()
    tracking.restart_clock()

    for iteration in range(state.iteration, iterations):
        # all random draws of a step come from (seed, iteration, process): a resume needs no generator's state
        torch.manual_seed(seed_for(recipe.seed, "step", iteration, accelerator.process_index))
        set_rates(optimizers, iteration)
        weights = graph.weights_at(iteration)
        # a list: processes average their gradients in its order
        adversaries = [label for label in state.adversaries if label in weights]
        done = iteration + 1
        writes = done % recipe.tracking.every == 0 or done == iterations
        evaluates = done % recipe.evaluate.every == 0 or done == iterations
        inspects = recipe.tracking.gradients is not None and done % recipe.tracking.gradients == 0
        saves = evaluates or (recipe.loop.save_every is not None and done % recipe.loop.save_every == 0)

        for part in range(parts):
            since = time.perf_counter()
            batch = next(batches).to(accelerator.device)
            tracking.waited += time.perf_counter() - since
            # processes average their gradients once a step, with its last part
            with accelerator.no_sync(wrapped) if part + 1 < parts else nullcontext():
                graph.keep_predictions = inspects or bool(adversaries)
                losses = wrapped(batch.images, batch.target, iteration, batch.unlabelled, batch.places)
                if inspects:
                    tracking.note(gradient_report(graph, losses, weights))
                accelerator.backward(sum(weighted(losses, weights).values()) / parts)
            for label in adversaries:  # a loss's own discriminator learns from the same forward
                (graph.adversary_loss(label) / parts).backward()
            tracking.add(losses)
        norm = None
        # an infinite bound measures the norm and clips nothing
        if writes or recipe.loop.clip_norm is not None:
            norm = accelerator.clip_grad_norm_(state.parameters(), recipe.loop.clip_norm or float("inf"))
        take_step(optimizers, accelerator.scaler)
        for label in adversaries:
            average_gradients(graph.losses[label].adversary, accelerator)  # adversaries are no part of DDP's module
            state.adversaries[label].step()
            state.adversaries[label].zero_grad()
        state.update_averages()
        state.iteration = done
        tracking.end_step(done, optimizers[0].param_groups[0]["lr"], weights)

        stopping, result, scores = stop.asked(at=writes), None, None
        # what is scored and saved must not depend on which process's images the batch norms have followed
        if evaluates or saves or stopping:
            share_running_statistics([graph, *state.averages.values()], accelerator)
        if evaluates:
            result = evaluate(state.student, val_set, recipe, accelerator, title="scoring the student")
            others = evaluate_also(graph, val_set, recipe, accelerator)
            scores = scores_of(result, others)
            state.note_scores(scores)
        # before the save: a checkpoint never knows more than the log, and a loss that is not finite ends here
        if writes or saves or stopping:
            tracking.flush(norm, scores)
        if evaluates:
            report.add_evaluation(result, others)
        if (saves or stopping) and accelerator.is_main_process:
            state.save(run, recipe.loop.keep_last, result)
        if stopping:
            tracking.close()
            dashboard.close()
            stop.leave(f"{recipe.name}: stopped after iteration {done} and saved; go on with --resume")
        if saves:
            accelerator.wait_for_everyone()
            tracking.restart_clock()  # scoring and saving are no part of the speed

    tracking.close()
    report.deliver()
    dashboard.close()
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    if lock is not None:
        lock.close()


def train_with_what_it_needs(recipe: Recipe, accelerator: Accelerator, *, resume: bool, overwrite: bool) -> None:
    """First the teachers and the baseline that are recipes themselves and have not run yet, then the recipe."""
    missing = read_needed(recipe, is_finished)
    if missing:  # what is wrong with one of them must not show only after another has been trained
        refuse_used_folder(recipe, resume=resume, overwrite=overwrite)
        for one in (*missing, recipe):
            rehearse(one, accelerator)
    for one in missing:
        train(one, accelerator, resume=True)
    train(recipe, accelerator, resume=resume, overwrite=overwrite)


def main() -> None:
    options, recipe = ask()
    accelerator = start_accelerator(recipe)
    train_with_what_it_needs(recipe, accelerator, resume=options.resume, overwrite=options.overwrite)
    accelerator.end_training()


if __name__ == "__main__":
    run_command(main)
