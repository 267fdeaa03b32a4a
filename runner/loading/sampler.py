"""Which sample comes when: a pure function of (seed, step), so that workers, processes and resumes do not change it."""

import functools
import itertools
import multiprocessing.queues
import signal
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from segkd.runner.loading.batch import Batch, EvaluationViews, TrainingViews, collate
from segkd.runner.loading.waiting import wait_for_batches
from segkd.runner.recipe.seeds import seed_for


def samples_of_step(step: int, batch_size: int, length: int, seed: int) -> list[tuple[int, int]]:
    """(epoch, index) of the samples of optimizer step `step` (0-based), over all processes and accumulated parts.

    The data set is read as one endless list of epochs, each a permutation drawn from (seed, epoch); a batch may
    span two epochs, so none is cut short and none is dropped.
    """
    orders: dict[int, np.ndarray] = {}
    samples = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, length)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng((seed, epoch)).permutation(length)
        samples.append((epoch, int(orders[epoch][offset])))
    return samples


def samples_at(step: int, batch_size: int, dataset: Dataset, seed: int) -> list[tuple[int, int]]:
    """The samples of a step of any data set: one that does not know how many images it has draws them itself."""
    if hasattr(dataset, "samples"):  # loading/shards.py
        return dataset.samples(range(step * batch_size, (step + 1) * batch_size), seed)
    return samples_of_step(step, batch_size, len(dataset), seed)


def samples_with_extra(step: int, batch_size: int, dataset: Dataset, seed: int, extra: int) -> list[tuple[int, int]]:
    """The samples of a step of which so many are extra images (datasets/_parts_of_a_set.py:WithExtra).

    Both kinds are read as `samples_of_step` reads one, each in epochs of its own. The extra ones are spread evenly over
    the step, so that its parts and processes have as many of them as each other, or one more.
    """
    if not extra:
        return samples_at(step, batch_size, dataset, seed)
    first = len(dataset.labelled)
    own = iter(samples_of_step(step, batch_size - extra, first, seed))
    others = samples_of_step(step, extra, len(dataset.extra), seed_for(seed, "extra"))
    others = iter([(epoch, first + index) for epoch, index in others])
    counts = [place * extra // batch_size for place in range(batch_size + 1)]
    return [next(others if after > before else own) for before, after in itertools.pairwise(counts)]


def images_per_part(
    batch_size: int, parts: int, world: int, field: str = "data.batch_size", mixing: str | None = None
) -> int:
    """Images one process computes at a time.

    Args:
        mixing: the field by which images are mixed in pairs, if they are.

    Raises:
        ValueError: processes and parts do not divide `field`, or would part pairs.
    """
    if batch_size % (parts * world):
        raise ValueError(
            f"{field} is {batch_size} images in total, which {world} processes times {parts} accumulated "
            f"parts do not divide; change {field}, loop.accumulate or the number of processes"
        )
    share = batch_size // (parts * world)
    if mixing is not None and share % 2 and (share == 1 or parts * world > 1):
        raise ValueError(
            f"{mixing} mixes images in pairs, and of {batch_size} ({field}) each of {world} processes computes {share} "
            f"at a time; let that be an even number, by {field}, loop.accumulate or the number of processes"
        )
    return share


def parts_of_steps(
    start: int, batch_size: int, dataset: Dataset, seed: int, extra: int, parts: int, rank: int, world: int
) -> Iterator[list[tuple[int, int]]]:
    """The samples one process computes at a time: for each step from `start`, one list for each accumulated part."""
    share = batch_size // (parts * world)
    for step in itertools.count(start):
        samples = samples_with_extra(step, batch_size, dataset, seed, extra)
        for part in range(parts):
            first = (part * world + rank) * share
            yield samples[first : first + share]


def training_batches(
    views: TrainingViews,
    *,
    start: int,
    batch_size: int,
    field: str = "data.batch_size",
    extra: int = 0,
    parts: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    timeout: float = 1800,
) -> Iterator[Batch]:
    """This process' endless batches from step `start` on: `parts` a step, each of batch_size / (parts * world) images.

    Args:
        batch_size: images per step over all processes and parts; ValueError, which names `field`, if those do not
            divide it.
        extra: how many of them are extra images, where the data set has some.
        timeout: seconds after which a batch that does not come from the loading processes is given up.
    """
    images_per_part(batch_size, parts, world, field)
    samples = parts_of_steps(start, batch_size, views.dataset, views.seed, extra, parts, rank, world)
    return batches_of(views, samples, workers=workers, pin_memory=pin_memory, timeout=timeout)


def batches_of(
    views: TrainingViews,
    samples: Iterable[list[tuple[int, int]]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    timeout: float = 1800,
) -> Iterator[Batch]:
    """The batches of given samples, (epoch, index) of each image, in their order."""
    loader = DataLoader(
        views,
        batch_sampler=samples,
        num_workers=workers,
        collate_fn=functools.partial(collate, mix=views.mix),
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        # its own: a loader that starts draws a number, from the global one in the middle of a resumed run's first step
        generator=torch.Generator(),
    )
    return wait_for_batches(loader, timeout)


def evaluation_batches(
    dataset: Dataset,
    *,
    rank: int = 0,
    world: int = 1,
    batch_size: int = 1,
    workers: int = 0,
    resize=None,
    pin_memory: bool = False,
    timeout: float = 1800,
) -> Iterator[Batch]:
    """Every image once, dealt out to the processes without repeating any: process r gets r, r + world, ..."""
    loader = DataLoader(
        EvaluationViews(dataset, list(range(rank, len(dataset), world)), resize),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
    )
    return wait_for_batches(loader, timeout)


def start_worker(worker: int) -> None:
    """What a loading process does first."""
    torch.set_num_threads(1)
    # images that find no shared memory: the training process, which waits for them, tells of it (waiting.py)
    multiprocessing.queues.Queue._on_queue_feeder_error = lambda *_: None
    # all may reach the whole group; the training process decides, and a worker ends by itself when that is gone
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
