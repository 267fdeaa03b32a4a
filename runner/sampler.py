"""Which sample comes when: a pure function of (seed, step), so that workers, processes and resumes do not change it."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


@dataclass
class Batch:
    """images: (B, 3, H, W) uint8 RGB. target: (B, H, W) int64. indices: which samples of the data set these are."""

    images: Tensor
    target: Tensor
    indices: list[int]

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; a DataLoader calls this, so that copies to a GPU overlap with its work."""
        return Batch(self.images.pin_memory(), self.target.pin_memory(), self.indices)

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`; labels travel as bytes and become int64 there."""
        return Batch(
            self.images.to(device, non_blocking=True), self.target.to(device, non_blocking=True).long(), self.indices
        )


def samples_of_step(step: int, batch_size: int, length: int, seed: int) -> list[tuple[int, int]]:
    """(epoch, index) of the samples of optimizer step `step` (0-based), over all processes and accumulated parts.

    The data set is read as one endless list of epochs, each a permutation drawn from (seed, epoch); a batch may
    span two epochs, so none is cut short and none is dropped.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders: dict[int, np.ndarray] = {}
    samples = []
    for position in positions:
        epoch, offset = divmod(position, length)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng((seed, epoch)).permutation(length)
        samples.append((epoch, int(orders[epoch][offset])))
    return samples


def images_per_part(batch_size: int, parts: int, world: int) -> int:
    """Images one process computes at a time. ValueError where processes and parts do not divide the batch."""
    if batch_size % (parts * world):
        raise ValueError(
            f"data.batch_size is {batch_size} images in total, which {world} processes times {parts} accumulated "
            f"parts do not divide; change data.batch_size, loop.accumulate or the number of processes"
        )
    return batch_size // (parts * world)


class _PartsOfSteps:
    """Batch sampler of one process: for each step from `start`, one list of samples per accumulated part."""

    def __init__(self, start: int, batch_size: int, length: int, seed: int, parts: int, rank: int, world: int):
        self.start, self.batch_size, self.length, self.seed = start, batch_size, length, seed
        self.parts, self.rank, self.world = parts, rank, world
        self.share = images_per_part(batch_size, parts, world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start
        while True:
            samples = samples_of_step(step, self.batch_size, self.length, self.seed)
            for part in range(self.parts):
                first = (part * self.world + self.rank) * self.share
                yield samples[first : first + self.share]
            step += 1


class _TrainingViews(Dataset):
    """Random views of a data set; the draws of one view come from (seed, epoch, index) alone."""

    def __init__(self, dataset: Dataset, transform, seed: int, resize=None):
        self.dataset, self.transform, self.seed, self.resize = dataset, transform, seed, resize

    def __getitem__(self, sample: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int] | Exception:
        epoch, index = sample
        try:
            image, target = self.dataset[index]
            if self.resize is not None:
                image, target = (Image.fromarray(pixels) for pixels in self.resize(image, target))
            image, target = self.transform(image, target, np.random.default_rng((self.seed, epoch, index)))
        except (ValueError, OSError) as error:
            return error  # travels as a value: torch would wrap it in the worker's traceback
        return image, target, index


class _EvaluationViews(Dataset):
    """Whole images in order; `resize` may bring image and label to the size a protocol scores at."""

    def __init__(self, dataset: Dataset, indices: list[int], resize=None):
        self.dataset, self.indices, self.resize = dataset, indices, resize

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray, int] | Exception:
        index = self.indices[position]
        try:
            image, target = self.dataset[index]
            if self.resize is not None:
                image, target = self.resize(image, target)
        except (ValueError, OSError) as error:
            return error
        return np.asarray(image), np.asarray(target), index


def _collate(views: list) -> Batch | Exception:
    for view in views:
        if isinstance(view, Exception):
            return view
    images, targets, indices = zip(*views)
    sizes = {image.shape[:2]: index for image, index in zip(images, indices)}
    if len(sizes) > 1:
        shown = " and ".join(
            f"number {index} has {height}x{width}" for (height, width), index in list(sizes.items())[:2]
        )
        return ValueError(
            f"images of different sizes cannot be scored in one batch ({shown} pixels); set evaluate.batch_size to 1, "
            f"or bring all to one size with data.resize"
        )
    # (B, H, W, 3) -> (B, 3, H, W): a view in channels_last order, nothing is copied
    return Batch(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(targets)), list(indices)
    )


def _batches(loader: DataLoader) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def training_batches(
    dataset: Dataset,
    transform,
    *,
    seed: int,
    start: int,
    batch_size: int,
    parts: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    resize=None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """This process' endless batches from step `start` on: `parts` a step, each of batch_size / (parts * world) images.

    Args:
        transform: called as transform(image, target, rng) -> (uint8 (H, W, 3), uint8 (H, W)).
        batch_size: images per step over all processes and parts; ValueError where it does not divide.
    """
    sampler = _PartsOfSteps(start, batch_size, len(dataset), seed, parts, rank, world)
    views = _TrainingViews(dataset, transform, seed, resize)
    # its own generator: a loader that starts draws a number, from the global one in the middle of
    # a resumed run's first step
    return _batches(
        DataLoader(
            views,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),
        )
    )


def evaluation_batches(
    dataset: Dataset,
    *,
    rank: int = 0,
    world: int = 1,
    batch_size: int = 1,
    workers: int = 0,
    resize=None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Every image once, dealt out to the processes without repeating any: process r gets r, r + world, ..."""
    views = _EvaluationViews(dataset, list(range(rank, len(dataset), world)), resize)
    return _batches(
        DataLoader(
            views,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
        )
    )


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # both may reach the whole group; the training process decides, and
        signal.signal(number, signal.SIG_IGN)  # a worker ends by itself when that is gone
