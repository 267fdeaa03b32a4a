"""Says whether a recipe will run, and what it costs: `python runner/check.py recipe.yaml [key=value ...]`.

Reads the recipe and its files, tells what a sample of the images and labels holds, runs one forward and backward of
every term and times a few steps. With --no-data it needs neither data nor weights: parts, shapes and sizes are checked
without computing, and what this machine lacks is listed. Nothing is written but a picture of some labels,
<tracking.folder>/<name>-data.png, what data.cache and class_weights by a rule keep for all runs and, with --fill-cache,
all that its caches lack.
"""

import argparse

from segkd.runner.command import add_recipe, ask_early, new_parser, run_command
from segkd.runner.recipe.read import read, read_needed
from segkd.runner.recipe.schema import Recipe

READ = 500  # images of a split whose labels are counted, unless all are asked for


def ask() -> tuple[argparse.Namespace, Recipe]:
    """The options, and the recipe they name, checked."""
    parser = new_parser("Say whether a recipe will run, and what it costs.")
    add_recipe(parser)
    work = parser.add_mutually_exclusive_group()
    work.add_argument("--no-data", action="store_true", help="check without data, weights files and computing")
    work.add_argument(
        "--fill-cache", "--cache", action="store_true", help="make what its caches lack, of pixels too; may be stopped"
    )
    parser.add_argument("--all-images", action="store_true", help=f"read every image and label, not {READ} of a split")
    options = parser.parse_intermixed_args()
    return options, read(options.recipe, options.overrides, trust_checkpoint=options.trust_checkpoint)


ask = ask_early(ask, __name__)  # before the imports that take seconds

import functools
import statistics
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from segkd.runner.building.cached import CachedNetwork, fill, forms_of, open_caches, words_of
from segkd.runner.building.device import loss_scale, peak_memory, prepare_for_device, start_accelerator
from segkd.runner.building.first_look import refuse_broken_teachers
from segkd.runner.building.graph import Graph, weighted
from segkd.runner.building.label_counts import count_labels
from segkd.runner.building.losses import build_graph, rehearse, told_class_weights, told_unread_scores
from segkd.runner.building.missing import missing
from segkd.runner.building.networks import build_networks, random_starts, weights_are_there, weights_path
from segkd.runner.building.optimizers import build_optimizers, take_step
from segkd.runner.building.shapes import shape_graph, shape_predictions, without_autocast
from segkd.runner.console import clock, counted, say
from segkd.runner.loading.batch import Batch, crops
from segkd.runner.loading.data_report import count, never_seen, sampled, told_classes, told_files, told_sizes
from segkd.runner.loading.data_sets import (
    build_test_set,
    build_training_batches,
    build_training_sets,
    build_val_set,
    build_views,
    training_views,
)
from segkd.runner.loading.first_look import look_at_data
from segkd.runner.loading.kept_pixels import KeptPixels, fill_pixels, kept_sets
from segkd.runner.loading.shards import Shards
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.recipe.term import Ramp
from segkd.runner.run_folder.opening import is_finished
from segkd.runner.run_folder.replacing import replacing
from segkd.runner.scoring.cost import flops, parameters, told_gain, wait_for_gpu
from segkd.runner.scoring.pictures import overlays
from segkd.runner.training.estimate import busiest_iteration, measured, scoring_seconds
from segkd.runner.training.gradients import gradient_report

OVERLAYS = 8, 4  # images to train on and to score that the picture shows
TIMED = 3


def main() -> None:
    options, recipe = ask()
    say(
        f"recipe    {recipe.name}: {counted(len(recipe.networks), 'network')}, {counted(len(recipe.losses), 'term')}, "
        f"{recipe.schedule.words} of {recipe.data.batch_size} images"
    )
    if options.no_data:
        check_without_data(recipe)
        return
    accelerator = start_accelerator(recipe)
    train_set, unlabelled_set, kept = check_data(recipe, None if options.all_images else READ)
    if options.fill_cache:
        fill_kept(recipe, kept, accelerator)
    graph = check_networks(recipe, train_set, accelerator)
    sets = {"labelled": train_set, "unlabelled": unlabelled_set}
    caches = open_caches(recipe, graph, sets, accelerator, tells=False)
    if options.fill_cache and not caches and not kept:
        raise ValueError(
            "--fill-cache: no term reads a network with a cache, and no pixels are kept; say `cache: {}` under a "
            "network, or data.cache=disk"
        )
    if options.fill_cache:
        fill_caches(recipe, caches, sets, accelerator)
        graph.caches = caches  # steps are made as a run with full caches makes them
    wrapped, *optimizers = accelerator.prepare(graph, *build_optimizers(recipe, graph))
    batches = build_training_batches(recipe, train_set, unlabelled_set, build_views(recipe), accelerator, start=0)
    batch = next(batches).to(accelerator.device)
    check_caches(caches, batch, accelerator)
    iteration = busiest_iteration(graph, recipe)
    check_terms(graph.train(), batch, iteration, accelerator)
    check_cost(wrapped, optimizers, batch, iteration, recipe, accelerator)
    for one in read_needed(recipe, is_finished):
        own = start_accelerator(one)  # in its own precision
        cost = measured(one, *rehearse(one, own), own)
        say(f"cost      before it {one.name} is trained, which takes {cost}")
    say("verdict   this recipe will run")
    accelerator.end_training()


def check_data(recipe: Recipe, most: int | None) -> tuple[Dataset, Dataset | None, list[KeptPixels]]:
    """Tells how many images there are and what they hold; `most`: how many of a split are read, None for all.

    Returns:
        the images to train on, with labels and without, and the data sets whose pixels are kept.
    """
    train_set, unlabelled_set = build_training_sets(recipe)
    val_set = build_val_set(recipe)
    found = [f"{len(train_set)} images to train on ({recipe.data.train_split})"] if recipe.sees_labelled else []
    if unlabelled_set is not None:
        is_counted = not isinstance(unlabelled_set, Shards)
        others = len(unlabelled_set) if is_counted else f"{len(unlabelled_set.paths)} shards of images"
        found.append(f"{others} without labels")
    judged = "to judge by" if recipe.judged_by_loss else "to score"
    found += [f"{len(val_set)} {judged} ({recipe.data.scored})"]
    if (test_set := build_test_set(recipe)) is not None:
        found += [f"{len(test_set)} to score once, at the end ({recipe.data.test_split})"]
    found += [f"{train_set.num_classes} classes"]
    say(f"data      {recipe.data.dataset}: {', '.join(found)}")
    own, extra = getattr(train_set, "labelled", train_set), getattr(train_set, "extra", None)
    if extra is not None:
        pseudo = recipe.data.extra.pseudo
        whose = "read from data.extra.labels" if pseudo is None else f"made by {pseudo.network} before the training"
        say(f"extra     {len(extra)} images, {recipe.extra_images} of each batch; their labels are {whose}")
    if recipe.judged_by_loss:
        for index in {0, len(val_set) - 1}:
            val_set[index]
        say("labels    none are read to score by: the loss on held-out images judges the student")
    else:
        check_labels(recipe, own, val_set, most)
    look_at_data(recipe, train_set, unlabelled_set, val_set, whole=True)
    kept = kept_sets(own, extra, unlabelled_set, val_set)
    for one in kept:
        say(f"pixels    {one.described()}")
    return train_set, unlabelled_set, kept


def check_labels(recipe: Recipe, train_set: Dataset, val_set: Dataset, most: int | None) -> None:
    """Tells what images and labels of both splits hold, and draws some."""
    for line in told_files(train_set, val_set):
        say(f"files     {line}")
    train, val = (count(one, most, recipe) for one in (train_set, val_set))
    say(f"sizes     {told_sizes(train, val)}")
    for number, line in enumerate(told_classes(train_set, train, val)):
        say(f"{'          ' if number else 'labels    '}{line}")
    for where, found in (("TRAIN ON", train), ("SCORE", val)):
        absent = never_seen(train_set, found)
        if absent:
            say(f"warning   NEVER SEEN IN {found.words.upper()} LABELS TO {where}: {', '.join(absent)}")
    say(f"picture   {draw_labels(recipe, train_set, val_set)} shows some images under their labels")


def draw_labels(recipe: Recipe, train_set: Dataset, val_set: Dataset) -> Path:
    """A picture of a few images under their labels, beside the run folder."""
    file = Path(recipe.tracking.folder) / f"{recipe.name}-data.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    chosen = [(one, sampled(one, number)) for one, number in zip((train_set, val_set), OVERLAYS)]
    with replacing(file) as partial:
        overlays(chosen).save(partial)
    return file


def check_networks(recipe: Recipe, train_set: Dataset, accelerator: Accelerator) -> Graph:
    """Builds the networks and the graph; prints parameters, FLOPs at the crop size and features."""
    for line in trained_first(recipe):
        say(line)
    networks = build_networks(recipe, train_set, untrained=True)
    counts = functools.partial(count_labels, recipe, train_set, accelerator)
    graph = build_graph(recipe, networks, train_set.ignore_index, counts)
    prepare_for_device(graph, recipe, accelerator)
    refuse_broken_teachers(graph, recipe, train_set, accelerator)
    for line in random_starts(recipe):
        say(f"start     {line}")
    for line in told_class_weights(graph, train_set.class_names):
        say(f"classes   {line}")
    for line in told_unread_scores(graph):
        say(f"unread    {line}")
    image = crops(recipe, 1, accelerator.device)
    for name in networks:
        say(described(name, graph, recipe, image))
    for name, network in networks.items():
        say(f"images    of {name} are normalised with {network.normalize.words}")
        if recipe.networks[name].cheaper_by:
            say(f"speed     {told_gain(name, network, recipe, accelerator)}")
    return graph


def trained_first(recipe: Recipe) -> list[str]:
    """A line for each network whose weights another recipe has to make."""
    return [
        f"weights   networks.{name}: {network.weights.recipe} will be trained first, into {weights_path(network)}"
        for name, network in recipe.networks.items()
        if isinstance(network.weights, OtherRecipe) and not weights_are_there(network)
    ]


def described(name: str, graph: Graph, recipe: Recipe, image: Tensor) -> str:
    """A line on a network: parameters, FLOPs for the image, features."""
    network = graph.network(name).eval()
    kind = ["trained"] if name in graph.networks else ["frozen", *recipe.networks[name].cheaper_by]
    return (
        f"network   {name}: {recipe.networks[name].title}, {', '.join(kind)}, "
        f"{parameters(network) / 1e6:.2f} M parameters, {flops(network, image) / 1e9:.2f} GFLOP for one "
        f"{'x'.join(map(str, recipe.data.crop_size))} crop (1 multiply-add = 2), "
        f"features {', '.join(network.channels)}"
    )


def check_without_data(recipe: Recipe) -> None:
    """Builds all that the recipe names as shapes alone and lists what this machine lacks for running it."""
    build_views(recipe)
    graph = shape_graph(recipe)
    build_optimizers(recipe, graph)
    predictions = shape_predictions(graph, recipe)
    with without_autocast():
        for name, network in recipe.networks.items():
            if network.ema_of is None:
                say(described(name, graph, recipe, crops(recipe, 1)))
    for stream in ("labelled", "unlabelled"):
        for name, cache in recipe.caches_on(stream).items():
            kept = words_of(forms_of(name, cache, predictions[name, stream]))
            say(f"cache     {name}'s cache of {stream} images: {kept}, up to {cache.views} views of an image")
    for term in graph.terms:
        source = f" from {term.source}" if term.source else ""
        ramp = term.weight
        weight = f"{ramp.start:g} to {ramp.end:g}" if isinstance(ramp, Ramp) else f"{ramp:g}"
        say(f"term      {term.label}: trains {term.of}{source}, on {term.on} images, weight {weight}")
    lines = [*missing(recipe), *trained_first(recipe)]
    for line in lines:
        say(line)
    lacks = f"; it still needs what the {len(lines)} lines above name" if lines else ", and nothing it names is missing"
    say(f"verdict   the parts of this recipe fit together{lacks}")


def fill_kept(recipe: Recipe, kept: list[KeptPixels], accelerator: Accelerator) -> None:
    """Decodes what is not kept yet. ValueError where it would be gone with this process."""
    if kept and recipe.data.cache == "ram":
        raise ValueError(
            "--fill-cache: data.cache: ram is given back when the last run that uses it ends, so nothing would be left "
            "of it; train without filling it, or take data.cache=disk"
        )
    for one in kept:
        fill_pixels(one, recipe, accelerator.process_index, accelerator.num_processes)
        accelerator.wait_for_everyone()
        say(f"pixels    {one.described()}")


def fill_caches(
    recipe: Recipe, caches: dict[tuple[str, str], CachedNetwork], sets: dict[str, Dataset], accelerator: Accelerator
) -> None:
    """Makes what the caches lack. ValueError where a network has to be trained first."""
    for name, stream in caches:
        entry = recipe.networks[name]
        if isinstance(entry.weights, OtherRecipe) and not weights_are_there(entry):
            raise ValueError(f"--fill-cache: networks.{name} has no weights yet; train {entry.weights.recipe} first")
        say(f"cache     {caches[name, stream].described()}; making what is missing")
        views = training_views(recipe, stream, sets[stream], build_views(recipe)[stream == "unlabelled"])
        fill(caches[name, stream], views, recipe, accelerator)
    accelerator.wait_for_everyone()


def check_caches(caches: dict[tuple[str, str], CachedNetwork], batch: Batch, accelerator: Accelerator) -> None:
    """Says what is kept and what keeping does to it, on one batch; nothing is written."""
    images = {"labelled": batch.images, "unlabelled": batch.unlabelled and batch.unlabelled.images}
    for (_, stream), cached in caches.items():
        say(f"cache     {cached.described()}")
        with accelerator.autocast():
            say(f"          {cached.compared(images[stream], cached.stored(images[stream]))}")


def check_terms(graph: Graph, batch: Batch, iteration: int, accelerator: Accelerator) -> None:
    """One forward and backward: each term's value, its gradient's norm and cosine to the cross entropy's gradient."""
    graph.keep_predictions = True
    weights = graph.weights_at(iteration)
    with accelerator.autocast():
        losses = graph(batch.images, batch.target, iteration, batch.unlabelled, batch.places, batch.extra)
    report = gradient_report(graph, losses, weights, loss_scale(accelerator))
    graph.keep_predictions, graph.kept = False, {}
    for name, loss in weighted(losses, weights).items():
        if not torch.isfinite(loss):
            raise ValueError(f"the term {name} is {loss.item()} on the first batch; check its arguments and the labels")
        cosine = f", cosine to the cross entropy's {report[f'cosine/{name}']:.2f}" if f"cosine/{name}" in report else ""
        say(
            f"term      {name}: {losses[name].item():.5g}, weighted {loss.item():.5g}, weighted gradient norm "
            f"{report[f'gradient/{name}']:.3g}{cosine} (iteration {iteration})"
        )
    accelerator.backward(sum(weighted(losses, weights).values()))
    silent = [name for name, one in graph.named_parameters() if one.requires_grad and one.grad is None]
    graph.zero_grad()
    if silent:
        say(
            f"warning   {len(silent)} parameters get no gradient from any active term, such as {silent[0]}: several "
            f"processes would stop on them; drop the head they belong to, or give it a term"
        )


def check_cost(
    wrapped: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    batch: Batch,
    iteration: int,
    recipe: Recipe,
    accelerator: Accelerator,
) -> None:
    """Times a few whole steps on one batch and prints what the run would take."""
    weights = accelerator.unwrap_model(wrapped).weights_at(iteration)
    times = []
    for _ in range(TIMED + 1):
        wait_for_gpu(accelerator.device)
        since = time.perf_counter()
        for _ in range(recipe.loop.accumulate):
            losses = wrapped(batch.images, batch.target, iteration, batch.unlabelled, batch.places, batch.extra)
            accelerator.backward(sum(weighted(losses, weights).values()))
        take_step(optimizers, accelerator.scaler)
        wait_for_gpu(accelerator.device)
        times.append(time.perf_counter() - since)
    step = statistics.median(times[1:])
    run, also = clock(step * recipe.schedule.iterations), ""
    if recipe.schedule.is_open:
        run = f"{recipe.schedule.iterations_at(step)} iterations in {clock(recipe.schedule.budget)}"
    if not recipe.judged_by_loss:
        graph, val_set = accelerator.unwrap_model(wrapped), build_val_set(recipe)
        also = f", each evaluation about {clock(scoring_seconds(graph, val_set, recipe, accelerator))}"
    say(
        f"cost      {step:.3g} s a step on {accelerator.device} ({recipe.data.batch_size / step:.1f} images/s), "
        f"peak memory {peak_memory(accelerator.device) / 2**30:.2f} GiB, about "
        f"{run} for the run without scoring and loading{also}"
    )


if __name__ == "__main__":
    run_command(main)
