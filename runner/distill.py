"""Trains a recipe: `accelerate launch runner/distill.py recipe.yaml [key=value ...] [--resume | --overwrite]`.

Data flows one way: recipe -> parts -> graph -> loop -> run folder. This file is the whole of the loop.
"""

import argparse
import time
from contextlib import nullcontext

import torch
from accelerate import Accelerator

from segkd.runner import checkpoint
from segkd.runner.assembly import (build_dataset, build_graph, build_network, build_optimizer, build_transform, fixed_resize,
                                   seed_for)
from segkd.runner.command import StopSignal, run_command
from segkd.runner.device import average_gradients, prepare_for_device, share_running_statistics, start_accelerator
from segkd.runner.diagnostics import gradient_report
from segkd.runner.evaluation import evaluate
from segkd.runner.graph import weighted
from segkd.runner.recipe import OtherRecipe, Recipe, read
from segkd.runner.report import deliver, record_evaluation, score_teachers
from segkd.runner.run_folder import is_finished, open_run_folder
from segkd.runner.sampler import training_batches
from segkd.runner.schedule import learning_rate
from segkd.runner.console import say
from segkd.runner.tracking import Tracking


def train(recipe: Recipe, accelerator: Accelerator, *, resume: bool, overwrite: bool = False) -> None:
    """Trains one recipe, from its start or its last checkpoint, to its end; leaves the run folder behind."""
    train_set, val_set = (build_dataset(recipe, split) for split in (recipe.data.train_split, recipe.data.val_split))
    networks = {name: build_network(name, network, train_set.num_classes, recipe.seed)
                for name, network in recipe.networks.items()}
    graph = build_graph(recipe, networks, train_set.ignore_index)
    prepare_for_device(graph, recipe, accelerator)
    optimizer = build_optimizer(recipe, graph)
    student, average = graph.network("student"), None
    if recipe.loop.ema is not None:
        average = torch.optim.swa_utils.AveragedModel(
            student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.loop.ema), use_buffers=True)
    scored = average.module if average else student
    wrapped, optimizer = accelerator.prepare(graph, optimizer)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    rivals = {label: loss.adversary_optimizer() for label, loss in graph.losses.items() if hasattr(loss, "adversary_optimizer")}
    transform = build_transform(recipe)

    # only now: a recipe that cannot be built leaves no run folder behind, and --overwrite does not cost the old run
    last = open_run_folder(recipe, accelerator, resume=resume, overwrite=overwrite)
    start, best, wandb_id = 0, {"miou": -1.0, "iteration": 0}, None
    if last is not None:
        state = checkpoint.load(last)
        checkpoint.restore(graph, state["graph"], last)
        optimizer.load_state_dict(state["optimizer"])
        for label, rival in rivals.items():
            rival.load_state_dict(state["rivals"][label])
        if average:
            average.load_state_dict(state["average"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        start, best, wandb_id = state["iteration"], state["best"], state["wandb"]
        if accelerator.is_main_process:
            say(f"{recipe.name}: going on from iteration {start}")

    parts, iterations, settings = recipe.loop.accumulate, recipe.schedule.iterations, recipe.schedule
    batches = training_batches(train_set, transform, seed=recipe.seed, start=start, parts=parts,
                               batch_size=recipe.data.batch_size, rank=accelerator.process_index, world=accelerator.num_processes,
                               workers=recipe.data.workers, resize=fixed_resize(recipe, scoring=False),
                               pin_memory=accelerator.device.type == "cuda")
    tracking = Tracking(recipe, accelerator, len(train_set), start, wandb_id)
    score_teachers(recipe, graph, val_set, accelerator)
    stop = StopSignal(accelerator)
    wrapped.train()
    tracking.restart_clock()

    for iteration in range(start, iterations):
        # all random draws of a step come from (seed, iteration, process): a resume needs no generator's state
        torch.manual_seed(seed_for(recipe.seed, "step", iteration, accelerator.process_index))
        lr = learning_rate(iteration, lr=recipe.optimizer.lr, **settings.model_dump())
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        weights = graph.weights_at(iteration)
        done = iteration + 1
        writes = done % recipe.tracking.every == 0 or done == iterations
        evaluates = done % recipe.evaluate.every == 0 or done == iterations
        inspects = recipe.tracking.gradients is not None and done % recipe.tracking.gradients == 0
        saves = evaluates or (recipe.loop.save_every is not None and done % recipe.loop.save_every == 0)

        for part in range(parts):
            since = time.perf_counter()
            batch = next(batches).to(accelerator.device)
            tracking.waited += time.perf_counter() - since
            with accelerator.no_sync(wrapped) if part + 1 < parts else nullcontext():
                graph.keep_predictions = inspects or bool(rivals)
                losses = wrapped(batch.images, batch.target, iteration)
                if inspects:
                    tracking.note(gradient_report(graph, losses, weights))
                accelerator.backward(sum(weighted(losses, weights).values()) / parts)
            for label in rivals.keys() & weights:  # a loss's own discriminator learns from the same forward
                (graph.adversary_loss(label) / parts).backward()
            tracking.add(losses)
        norm = None
        if writes or recipe.loop.clip_norm is not None:
            norm = accelerator.clip_grad_norm_(trained, recipe.loop.clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        for label in rivals.keys() & weights:
            average_gradients(graph.losses[label].adversary, accelerator)
            rivals[label].step()
            rivals[label].zero_grad()
        if average:
            average.update_parameters(student)
        tracking.end_step(done, lr, weights)

        stopping, scores = stop.asked(at=writes), None
        if evaluates or saves or stopping:
            share_running_statistics(graph, accelerator)
        if evaluates:
            scores = evaluate(scored, val_set, recipe, accelerator, title="scoring the student")
            best = {"miou": scores.miou, "iteration": done} if scores.miou > best["miou"] else best
        if writes or saves or stopping:
            tracking.flush(norm, scores)
        if evaluates:
            record_evaluation(done, scores, graph, scored, val_set, recipe, accelerator, tracking)
        if (saves or stopping) and accelerator.is_main_process:
            state = {"iteration": done, "graph": graph.state_dict(), "optimizer": optimizer.state_dict(), "best": best,
                     "rivals": {label: rival.state_dict() for label, rival in rivals.items()},
                     "average": average.state_dict() if average else None, "wandb": tracking.dashboard.run_id,
                     "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None}
            checkpoint.save(recipe.folder, done, scored.state_dict(), state, keep_last=recipe.loop.keep_last, best=best["iteration"])
        if stopping:
            tracking.close()
            stop.leave(f"{recipe.name}: stopped after iteration {done} and saved; go on with --resume")
        if saves:
            accelerator.wait_for_everyone()
            tracking.restart_clock()

    tracking.close()
    deliver(recipe, graph, scored, best, val_set, accelerator)
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def train_with_what_it_needs(recipe: Recipe, accelerator: Accelerator, *, resume: bool, overwrite: bool = False) -> None:
    """First the teachers and the baseline that are recipes themselves and have not run yet, then the recipe."""
    wanted = [network.weights for network in recipe.networks.values()] + [recipe.baseline]
    for other in (read(value.recipe) for value in wanted if isinstance(value, OtherRecipe)):
        if not is_finished(other):
            train_with_what_it_needs(other, accelerator, resume=True)
    train(recipe, accelerator, resume=resume, overwrite=overwrite)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a recipe.", allow_abbrev=False)
    parser.add_argument("recipe", help="path of the recipe")
    parser.add_argument("overrides", nargs="*", help="key=value, such as optimizer.lr=0.02 losses.1.weight=3")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run in the run folder")
    again.add_argument("--overwrite", action="store_true", help="delete the run in the run folder and start over")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_intermixed_args()
    recipe = read(options.recipe, options.overrides)
    accelerator = start_accelerator(recipe)
    train_with_what_it_needs(recipe, accelerator, resume=options.resume, overwrite=options.overwrite)
    accelerator.end_training()


if __name__ == "__main__":
    run_command(main)
