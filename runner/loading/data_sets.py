"""A recipe's data sets, and the streams of training batches that are made of them."""

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch.utils.data import Dataset

from segkd.datasets._files import IGNORE_INDEX
from segkd.datasets._parts_of_a_set import (
    Chosen,
    ImagesBelow,
    LabelsFrom,
    WithExtra,
    WithoutLabels,
    labelled_indices,
)
from segkd.datasets._resample import fitted_pair, fitted_pair_corners, resize_pair, short_side_pair
from segkd.runner.loading.batch import Batch, TrainingViews
from segkd.runner.loading.fixed_views import FixedViews
from segkd.runner.loading.kept_pixels import keep_pixels
from segkd.runner.loading.sampler import samples_at, samples_with_extra, training_batches
from segkd.runner.loading.shards import Shards
from segkd.runner.loading.train_ids import TrainIds
from segkd.runner.recipe import parts
from segkd.runner.recipe.cache import Cache
from segkd.runner.recipe.extra import REST
from segkd.runner.recipe.schema import Data, Recipe
from segkd.runner.recipe.seeds import seed_for

TUNING_SEED = 0  # of data.tuning_part: all trials of a search are scored on the same images


def find_dataset(data: Data, split: str) -> Dataset:
    """A data set as its file in datasets/ makes it.

    Raises:
        ValueError, FileNotFoundError: folders and lists that are missing, and how they must lie; what else is wrong.
    """
    try:
        return parts.build("datasets", data.dataset, data.args, data.root, split)
    except (ValueError, FileNotFoundError) as error:
        of_files = isinstance(error, FileNotFoundError) or "Expected layout" in str(error)
        if not of_files or (data.root and Path(data.root).exists()):
            raise
        told = f": there is no folder {data.root}" if data.root else f" is missing; say where {data.dataset} lies"
        raise FileNotFoundError(f"data.root{told} ({error})") from error


def build_dataset(recipe: Recipe, split: str) -> Dataset:
    """The recipe's data set, one split, in train ids; errors are those of `find_dataset`."""
    dataset = find_dataset(recipe.data, split)
    dataset.max_pixels = recipe.data.max_pixels
    return keep_pixels(TrainIds(dataset), recipe.data, recipe.tracking.folder, split)


def build_training_sets(recipe: Recipe, pseudo_labels: Path | None = None) -> tuple[Dataset, Dataset | None]:
    """The training images with labels, and those without, None where the recipe has no such stream.

    Where no term sees images with labels, and data.labelled does not divide them, all are images without. Behind those
    with labels come those of data.extra, if there are any.

    Args:
        pseudo_labels: the folder of those that data.extra.pseudo asks for; None: they are still to be made, and are not
            read.

    Raises:
        ValueError: data.labelled leaves no image for the stream of unlabelled ones, shards that hold none, or padding of
            a label that is no class.
    """
    data = recipe.data
    labelled, rest = divide(recipe)
    _refuse_other_padding(data, labelled.num_classes)
    if data.extra is not None:
        by_hand = data.extra.pseudo is None
        folder, field = (data.extra.labels, "data.extra.labels") if by_hand else (pseudo_labels, "data.extra.pseudo")
        images = LabelsFrom(extra_images(recipe, rest), folder, labelled.num_classes, field, data.max_pixels)
        labelled = WithExtra(labelled, images)
    if data.unlabelled is None:
        return labelled, None
    if data.unlabelled.shards is not None:
        folder = Path(recipe.tracking.folder) / "shards"
        shards = Shards(data.unlabelled.shards, folder, data.unlabelled.shuffle, data.max_pixels)
        shards.samples(range(1), seed_for(recipe.seed, "unlabelled"))  # what is wrong with the first ones is told now
        return labelled, shards
    if data.unlabelled.images is not None:
        return labelled, WithoutLabels(images_below(recipe, data.unlabelled.images))
    if not len(rest):
        raise ValueError(
            "data.unlabelled: every training image is labelled; say which are with data.labelled (such as 1/8), or "
            "name a folder of others with data.unlabelled.images, or tar files of them with data.unlabelled.shards"
        )
    return labelled, WithoutLabels(rest)


def _refuse_other_padding(data: Data, num_classes: int) -> None:
    for section, one in (("data", data), ("data.unlabelled", data.unlabelled)):
        label = IGNORE_INDEX if one is None or one.transform is None else one.transform.get("pad_label", IGNORE_INDEX)
        if label >= num_classes and label != IGNORE_INDEX:
            raise ValueError(
                f"{section}.transform.pad_label: {label} is none of the {num_classes} classes; take one, or "
                f"{IGNORE_INDEX}, which stands for what does not count whatever ignore_index the data set has"
            )


def divide(recipe: Recipe) -> tuple[Dataset, Chosen]:
    """The images of the training split that have labels, and the others."""
    whole, chosen, kept_out = _parts(recipe)
    if recipe.data.labelled is None and not kept_out:
        return whole, Chosen(whole, [] if recipe.sees_labelled else list(range(len(whole))))
    rest = set(range(len(whole))) - set(chosen)
    if recipe.data.labelled is None and not recipe.sees_labelled:
        rest = set(chosen)
    return Chosen(whole, sorted(set(chosen) - kept_out)), Chosen(whole, sorted(rest - kept_out))


def _parts(recipe: Recipe) -> tuple[Dataset, list[int], set[int]]:
    """The training split, which of its images have labels, and which are kept out of training to choose settings by."""
    data, whole = recipe.data, build_dataset(recipe, recipe.data.train_split)
    chosen = list(range(len(whole)))
    if data.labelled is not None:
        chosen = labelled_indices(whole, data.labelled, data.dataset, seed_for(recipe.seed, "labelled"))
    if data.tuning_part is None:
        return whole, chosen, set()
    seed = seed_for(TUNING_SEED, "tuning part")
    if isinstance(data.tuning_part, str):
        kept_out = set(labelled_indices(whole, data.tuning_part, data.dataset, seed, "data.tuning_part"))
    else:
        count = max(1, round(data.tuning_part * len(chosen)))
        drawn = np.random.default_rng(seed).permutation(len(chosen))[:count]
        kept_out = {chosen[index] for index in drawn}
    scored = kept_out.intersection(chosen)
    if not 0 < len(scored) < len(chosen):
        raise ValueError(
            f"data.tuning_part: {data.tuning_part} has {len(scored)} of the {len(chosen)} labelled training images; some "
            f"must be in it to be scored, and others out of it to be trained on"
        )
    return whole, chosen, kept_out


def build_val_set(recipe: Recipe) -> Dataset:
    """The images that are scored: those of val_split or, to choose settings by, a part of the training split."""
    if recipe.data.tuning_part is None:
        return build_dataset(recipe, recipe.data.val_split)
    whole, chosen, kept_out = _parts(recipe)
    return Chosen(whole, sorted(kept_out.intersection(chosen)))


def build_test_set(recipe: Recipe) -> Dataset | None:
    """The images of test_split, which choose nothing; None where there are none, or settings are being chosen."""
    data = recipe.data
    return None if data.test_split is None or data.tuning_part is not None else build_dataset(recipe, data.test_split)


def extra_images(recipe: Recipe, rest: Dataset) -> Dataset:
    """The images of data.extra; `rest` are those that data.labelled leaves out. ValueError: these are none."""
    source = recipe.data.extra.source
    if source != REST:
        return images_below(recipe, source, "data.extra.images")
    if not len(rest):
        raise ValueError("data.extra: data.labelled leaves no image over; lower it, or name a folder of others")
    return rest


def images_below(recipe: Recipe, folder: str, field: str = "data.unlabelled.images") -> Dataset:
    """The images below a folder that a field of the recipe names."""
    images = ImagesBelow(folder, field)
    images.max_pixels = recipe.data.max_pixels
    return keep_pixels(images, recipe.data, recipe.tracking.folder, "unlabelled")


def build_views(recipe: Recipe) -> tuple[dict, dict]:
    """What makes random views of labelled images and of unlabelled ones: transform, mix and strong view."""
    data = recipe.data

    def built(name: str, settings: dict | None, *given: object) -> object:
        return None if settings is None else parts.build("datasets", name, settings, *given)

    labelled = {"transform": built("_transforms", data.transform, data.crop_size), "mix": built("_mixing", data.mix)}
    other = data.unlabelled
    if other is None:
        return labelled, {}
    transform = built("_transforms", other.transform, data.crop_size)
    return labelled, {"transform": transform, "strong": built("_strong", other.strong)}


def build_training_batches(
    recipe: Recipe,
    train_set: Dataset,
    unlabelled_set: Dataset | None,
    views: tuple[dict, dict],
    accelerator: Accelerator,
    *,
    start: int,
) -> Iterator[Batch]:
    """This process' endless training batches from iteration `start` on, `loop.accumulate` of them a step.

    With an unlabelled set each carries the batch of that stream that belongs to it; where no term sees images with
    labels, none are loaded, and it is that batch. `views` are those of build_views.
    """
    shared = {
        "start": start,
        "parts": recipe.loop.accumulate,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
        "workers": recipe.data.workers,
        "pin_memory": accelerator.device.type == "cuda",
        "timeout": recipe.loop.timeout,
    }
    labelled, other = training_views(recipe, "labelled", train_set, views[0]), recipe.data.unlabelled
    own = {"batch_size": recipe.data.batch_size, "extra": recipe.extra_images, **shared}
    if unlabelled_set is None:
        return training_batches(labelled, **own)
    unlabelled = training_views(recipe, "unlabelled", unlabelled_set, views[1])
    others = training_batches(unlabelled, batch_size=other.batch_size, field="data.unlabelled.batch_size", **shared)
    if not recipe.sees_labelled:
        return (replace(batch, unlabelled=batch) for batch in others)
    batches = training_batches(labelled, **own)
    return (replace(batch, unlabelled=other) for batch, other in zip(batches, others))


def samples_seen(recipe: Recipe, sets: dict[str, Dataset | None], step: int) -> list[tuple[int, int]]:
    """(epoch, index) of the images with labels that a step sees or, where no term sees any, of those without.

    Args:
        sets: the images of each stream, labelled and unlabelled.
    """
    data = recipe.data
    if recipe.sees_labelled:
        return samples_with_extra(step, data.batch_size, sets["labelled"], recipe.seed, recipe.extra_images)
    seed = seed_for(recipe.seed, "unlabelled")
    return samples_at(step, data.unlabelled.batch_size, sets["unlabelled"], seed)


def training_views(recipe: Recipe, stream: str, dataset: Dataset, views: dict) -> TrainingViews:
    """The random views of a stream's images, which come again where a network keeps what it makes of them.

    Args:
        stream: labelled or unlabelled. views: what makes them, of build_views.
    """

    def stream_seed(seed: int) -> int:
        return seed if stream == "labelled" else seed_for(seed, stream)

    cache = next(iter(recipe.caches_on(stream).values()), None)
    fixed = None if cache is None else FixedViews(kept_views(cache, recipe, stream, dataset), stream_seed(cache.seed))
    resize = fixed_resize(recipe, scoring=False)
    return TrainingViews(dataset, seed=stream_seed(recipe.seed), resize=resize, fixed=fixed, **views)


def kept_views(cache: Cache, recipe: Recipe, stream: str, dataset: Dataset) -> int:
    """How many views of each image of a stream come again: as many as its cache may have, or as the run shows, if fewer.

    So runs of other seeds see those that a first one has made, however many more a cache may have.
    """
    shown = times_shown(recipe, stream, dataset)
    return cache.views if shown is None else min(cache.views, shown)


def times_shown(recipe: Recipe, stream: str, dataset: Dataset) -> int | None:
    """How often the run shows an image of a stream without extra ones, at most; None: its length is not known yet."""
    if recipe.schedule.is_open:
        return None
    data = recipe.data
    batch_size = data.batch_size if stream == "labelled" else data.unlabelled.batch_size
    return math.ceil(recipe.schedule.iterations * batch_size / len(dataset))


def fixed_resize(recipe: Recipe, scoring: bool):
    """What resizes image and label as data.resize says, or when scoring evaluate.short_side or fit; None: nothing."""
    if scoring and recipe.evaluate.short_side is not None:
        return functools.partial(short_side_pair, short_side=recipe.evaluate.short_side)
    if scoring and recipe.evaluate.fit is not None:
        fit = fitted_pair_corners if recipe.evaluate.fit_corners else fitted_pair
        return functools.partial(fit, size=recipe.evaluate.fit)
    if recipe.data.resize is not None:
        return functools.partial(resize_pair, size=recipe.data.resize)
    return None
