"""From samples of a data set to batches on a device: random views, whole images, images mixed with each other."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from segkd.datasets._mixing import MixDraw
from segkd.datasets._parts_of_a_set import WithExtra
from segkd.datasets._strong import partners
from segkd.runner.loading.fixed_views import FixedViews
from segkd.runner.recipe.schema import Recipe


@dataclass
class Batch:
    """images: (B, 3, H, W) uint8 RGB. target: (B, H, W) int64. indices: which samples of the data set these are.

    Batches of unlabelled images may also have `strong`, the same crops recoloured and mixed, and `mixed`, (B, H, W)
    bool: where `strong` shows an image's partner (datasets/_strong.py:partners). A labelled batch carries the
    unlabelled one of its step. `views`: where views come again (loading/fixed_views.py), which of them these are.
    `extra`: whether each is an extra image (datasets/_parts_of_a_set.py:WithExtra), where there are such.
    """

    images: Tensor
    target: Tensor
    indices: list[int]
    strong: Tensor | None = None
    mixed: Tensor | None = None
    unlabelled: "Batch | None" = None
    views: list[int] | None = None
    extra: list[bool] | None = None

    @property
    def places(self) -> list[tuple[int, int]] | None:
        """(index, view) of each image, by which one that comes again is known; None where none does."""
        return None if self.views is None else list(zip(self.indices, self.views))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; a DataLoader calls this, so that copies to a GPU overlap with its work."""
        return self._with(lambda maps: maps.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`; labels travel as bytes and become int64 there."""
        moved = self._with(lambda maps: maps.to(device, non_blocking=True))
        moved.target = moved.target.long()
        if self.unlabelled is not None:
            # where no term sees labelled ones, they are the unlabelled ones and are moved once
            is_same = all(
                getattr(self, maps) is getattr(self.unlabelled, maps) for maps in ("images", "strong", "mixed")
            )
            moved.unlabelled = replace(moved, unlabelled=None) if is_same else self.unlabelled.to(device)
        return moved

    def _with(self, change) -> "Batch":
        strong, mixed = (None if maps is None else change(maps) for maps in (self.strong, self.mixed))
        return replace(self, images=change(self.images), target=change(self.target), strong=strong, mixed=mixed)


@dataclass
class View:
    """One sample on its way into a batch: image (H, W, 3) and target (H, W), uint8.

    Attributes:
        strong, box: its strong view before mixing, and (H, W) bool where its partner is to be seen in it.
        mixing: how its partner is mixed into image and target, None for not at all.
        number: which of the image's views it is, where they come again. extra: see Batch.
    """

    image: np.ndarray
    target: np.ndarray
    index: int
    strong: np.ndarray | None = None
    box: np.ndarray | None = None
    mixing: MixDraw | None = None
    number: int | None = None
    extra: bool | None = None


class TrainingViews(Dataset):
    """Random views of a data set; the draws of one view come from (seed, epoch, index) alone.

    Where views come again, (seed, epoch, index) decides which of them is shown, and what is done to it for its strong
    view.

    Args:
        transform: called as transform(image, target, rng) -> (uint8 (H, W, 3), uint8 (H, W)).
        resize: called as resize(image, target) before it. strong: called as strong(image, rng) for a second view, see
            datasets/_strong.py. mix: datasets/_mixing.py:Mix. fixed: the views that come again; None: each is new.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform,
        seed: int,
        resize=None,
        strong=None,
        mix=None,
        fixed: FixedViews | None = None,
    ):
        self.dataset, self.transform, self.seed, self.resize = dataset, transform, seed, resize
        self.strong, self.mix, self.fixed = strong, mix, fixed

    def __getitem__(self, sample: tuple[int, int]) -> View | Exception:
        epoch, index = sample
        try:
            image, target = self.dataset[index]
            if self.resize is not None:
                image, target = (Image.fromarray(pixels) for pixels in self.resize(image, target))
            rng = np.random.default_rng((self.seed, epoch, index))
            number = None if self.fixed is None else self.fixed.shown(epoch, index, self.seed)
            drawn_with = rng if number is None else self.fixed.generator(number, index)
            view = View(*self.transform(image, target, drawn_with), index, number=number)
            if isinstance(self.dataset, WithExtra):
                view.extra = self.dataset.is_extra(index)
            if self.strong is not None:
                view.strong, view.box = self.strong(view.image, rng)
            if self.mix is not None:
                view.mixing = self.mix.draw(rng, view.target.shape)
        except (ValueError, OSError) as error:
            return error  # travels as a value: torch would wrap it in the worker's traceback
        return view


class EvaluationViews(Dataset):
    """Whole images in order; `resize` may bring image and label to the size a protocol scores at."""

    def __init__(self, dataset: Dataset, indices: list[int], resize=None):
        self.dataset, self.indices, self.resize = dataset, indices, resize

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> View | Exception:
        index = self.indices[position]
        try:
            image, target = self.dataset[index]
            if self.resize is not None:
                image, target = self.resize(image, target)
        except (ValueError, OSError) as error:
            return error
        return View(np.asarray(image), np.asarray(target), index)


def collate(views: list[View | Exception], mix=None) -> Batch | Exception:
    """One batch of views, partners mixed with each other; of a view that failed, its error."""
    for view in views:
        if isinstance(view, Exception):
            return view
    pairs = [(view.image, view.target) for view in views]
    others = partners(len(views))
    if mix is not None:
        pairs = [
            pair if view.mixing is None else mix.apply(pair, pairs[other], view.mixing)
            for pair, view, other in zip(pairs, views, others)
        ]
    images, targets = zip(*pairs)
    indices = [view.index for view in views]
    # a protocol may bring images of different labels to one size
    sizes = {(image.shape[:2], target.shape): index for (image, target), index in zip(pairs, indices)}
    if len(sizes) > 1:
        shown = [f"number {index} has {height}x{width}" for (_, (height, width)), index in sizes.items()]
        return ValueError(
            f"images of different sizes cannot be scored in one batch ({' and '.join(shown[:2])} pixels); set "
            f"evaluate.batch_size to 1, or bring all to one size with data.resize"
        )
    numbers = None if views[0].number is None else [view.number for view in views]
    extra = None if views[0].extra is None else [view.extra for view in views]
    batch = Batch(_stacked(images), torch.from_numpy(np.stack(targets)), indices, views=numbers, extra=extra)
    if views[0].strong is not None:
        strong = np.stack([view.strong for view in views])
        boxes = np.stack([view.box for view in views])
        batch.strong = _stacked(np.where(boxes[..., None], strong[others], strong))
        batch.mixed = torch.from_numpy(boxes)
    return batch


def _stacked(images) -> Tensor:
    # (B, H, W, 3) -> (B, 3, H, W): a view in channels_last order, nothing is copied
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def crops(recipe: Recipe, count: int, device: torch.device | str = "meta") -> Tensor:
    """Black images of the size that is trained on, (count, 3, H, W) uint8, which lie in memory as batches do."""
    return torch.zeros(count, *recipe.data.crop_size, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
