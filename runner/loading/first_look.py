"""A look at a recipe's images and labels before training: what would train, or score, as if it were right."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from torch.utils.data import Dataset

from segkd.datasets._files import exif_orientation
from segkd.datasets._images import UNDECODABLE, RefusedFile, open_image, open_regular, upright_size
from segkd.runner.console import printable
from segkd.runner.loading.data_sets import build_test_set
from segkd.runner.loading.kept_pixels import require_room
from segkd.runner.process import process_count
from segkd.runner.recipe.schema import Recipe

# at each start, in seconds at most; check.py looks further
LABELS, LABELS_OF_CHECK = 64, 1000
COMPARED = 20_000  # images whose content is compared
# data sets that are as they were published: of their images to score, this share may be copies of training images
PUBLISHED, FEW = ("ade20k", "camvid", "cityscapes", "coco_stuff", "voc"), 0.01
CHUNK = 4096  # bytes from the middle of files of one size, which differ for all but equal files

log = logging.getLogger(__name__)


def look_at_data(
    recipe: Recipe, train_set: Dataset, unlabelled_set: Dataset | None, val_set: Dataset, *, whole: bool = False
) -> None:
    """Refuses data that nothing is learnt from, or that is scored on what it was trained on; warns where in doubt.

    Args:
        whole: look further than at each start, as check.py does.

    Raises:
        ValueError: a step's images larger than the machine's memory, no room for pixels that are to be kept, other
            classes to train on than to score, a single class, or images that are both trained on and scored.
    """
    _refuse_more_than_the_memory(recipe)
    own, extra = getattr(train_set, "labelled", train_set), getattr(train_set, "extra", None)
    test_set = build_test_set(recipe)
    require_room(recipe, own, extra, unlabelled_set, val_set, test_set)
    scored = {recipe.data.val_split: val_set} | ({} if test_set is None else {recipe.data.test_split: test_set})
    training = [train_set, *([] if unlabelled_set is None else [unlabelled_set])]
    for split, dataset in scored.items():
        _refuse_other_classes(recipe, train_set, split, dataset)
        if not recipe.data.allow_overlap:
            _refuse_overlap(recipe, training, split, dataset, whole)
    if test_set is not None and not recipe.data.allow_overlap:
        _refuse_overlap(recipe, [val_set], recipe.data.test_split, test_set, whole, known="what chooses the student")
    train_set = own  # a teacher's labels are not there before they are made
    if not recipe.judged_by_loss:
        _refuse_one_class(train_set, LABELS_OF_CHECK if whole else LABELS)
        for split, dataset in scored.items():
            _refuse_without_labels(split, dataset)
            _refuse_batches_of_several_sizes(recipe, split, dataset)
    if whole and hasattr(train_set, "files"):
        _doubt_turned_images(train_set)


def _warn(text: str) -> None:
    log.warning("WARNING: %s", printable(text))


def _spread(dataset: Dataset, most: int) -> list[int]:
    """Up to so many places in a data set, evenly spaced."""
    return np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(int).tolist()


def _refuse_more_than_the_memory(recipe: Recipe) -> None:
    """The images alone, as floats: what the networks make of them is many times as large."""
    data, parts = recipe.data, recipe.loop.accumulate * process_count()
    count, (height, width) = sum(data.batch_sizes), data.crop_size
    needed, there = 12 * count * height * width // parts, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"data.batch_size, data.crop_size: {count} images of {height} x {width} in {parts} part(s) are "
            f"{needed / 2**30:.0f} GiB a part, and this machine has {there / 2**30:.0f} GiB of memory; give smaller "
            "crops, fewer images or a larger loop.accumulate"
        )


def _refuse_other_classes(recipe: Recipe, train_set: Dataset, split: str, dataset: Dataset) -> None:
    """ValueError where files that tell their classes themselves tell others for the two splits."""
    trained, scored = list(train_set.class_names), list(dataset.class_names)
    if trained != scored:
        both = f"{recipe.data.train_split}: {', '.join(trained[:10])}; {split}: {', '.join(scored[:10])}"
        raise ValueError(
            f"data: the files name other classes to train on than to score, or in another order ({both}); say with "
            f"data.args.classes which there are, in their order"
        )


def _refuse_without_labels(split: str, dataset: Dataset) -> None:
    """ValueError where no label of a split counts, as in those whose labels are kept by their publishers."""
    classes = dataset.num_classes
    if not any(sum(dataset[index][1].histogram()[:classes]) for index in range(len(dataset))):  # ends at the first
        raise ValueError(
            f"data: no pixel of the {len(dataset)} images of {split} has a label that counts, so nothing can be scored "
            f"there; name another split, or check the label folder and the ids (check.py shows how they are spread)"
        )


def _refuse_one_class(train_set: Dataset, most: int) -> None:
    """ValueError where all labels are of one class; a warning where only some of the labels were read."""
    names, hint = train_set.class_names, "masks of 0 and 255 are read by dataset folder with lookup: {0: 0, 255: 1}"
    if train_set.num_classes < 2:
        raise ValueError(
            f"data: {names[0]!r} is the only class, so there is nothing to tell apart; name what is around it as well, "
            f"as in class_names: [background, {names[0]}] ({hint})"
        )
    counts, places = np.zeros(256, np.int64), _spread(train_set, most)
    for index in places:
        counts += np.array(train_set[index][1].histogram())
        found = np.flatnonzero(counts[: train_set.num_classes])
        if len(found) > 1:
            return  # nearly always after the first label
    only = f"every pixel that counts is {names[found[0]]!r}" if len(found) else "every pixel is ignored"
    ignored = f" ({counts[train_set.ignore_index] / counts.sum():.0%} are ignored)" if len(found) else ""
    text = f"in the labels of {len(places)} training images {only}{ignored}; check the label folder and the ids"
    if len(places) == len(train_set):
        raise ValueError(f"data: {text} ({hint})")
    _warn(f"{text.upper()} ({hint})")


def _doubt_turned_images(train_set: Dataset) -> None:
    """Warns of images turned upright by EXIF beside labels that are not, where their sizes do not show what is meant."""
    for index in _spread(train_set, LABELS):
        image, label = train_set.files[index]
        turned = exif_orientation(image)
        if turned and label is not None and not exif_orientation(label):
            size = train_set[index][0].size
            if turned < 5 or size[0] == size[1]:
                _warn(
                    f"{image} is turned upright by its EXIF orientation and its label has none; the label must be drawn "
                    f"on the upright image, which their sizes do not show"
                )
                return


def _refuse_batches_of_several_sizes(recipe: Recipe, split: str, dataset: Dataset) -> None:
    """ValueError where the first images, as they are dealt out to be scored, cannot stand in one batch."""
    count, world = recipe.evaluate.batch_size, process_count()
    if count == 1 or recipe.data.resize is not None or not hasattr(dataset, "files"):
        return
    for rank in range(world):
        places = range(rank, min(len(dataset), LABELS_OF_CHECK), world)
        for start in range(0, len(places), count):
            paths = [dataset.files[place][0] for place in places[start : start + count]]
            sizes = {_size(path): path for path in paths}
            sizes.pop(None, None)
            if len(sizes) > 1:
                shown = " and ".join(f"{path} has {height}x{width}" for (height, width), path in [*sizes.items()][:2])
                raise ValueError(
                    f"images of {split} have several sizes ({shown} pixels), which cannot be scored {count} at a time; "
                    f"set evaluate.batch_size to 1, or bring all to one size with data.resize"
                )


def _size(path: str) -> tuple[int, int] | None:
    """(H, W) of an image, upright, by its header; None where it cannot be read, which whoever reads it tells."""
    try:
        with open_image(path, None) as image:
            return upright_size(image)
    except (*UNDECODABLE, RefusedFile):
        return None


def _refuse_overlap(
    recipe: Recipe, training: list[Dataset], split: str, dataset: Dataset, whole: bool, known: str = "also trained on"
) -> None:
    """ValueError where images to score are trained on; a warning where they are few copies in a published data set."""
    data = recipe.data
    cure = (
        "give them to one of the two (the splits in data, and data.args, say which they are; images that "
        "lie in no splits are divided by data.args.val=0.1)"
    )
    if not hasattr(dataset, "files"):  # drawn as they are asked for
        if data.train_split == split:
            raise ValueError(
                f"data: the images to score are those to train on ({split}), so the scores tell nothing of "
                f"other images; {cure}, or say data.allow_overlap=true"
            )
        return
    trained = [image for one in training for image, _ in getattr(one, "files", [])]
    scored = [image for image, _ in dataset.files]
    shared = _same_paths(trained, scored)
    is_copy = not shared
    if is_copy and (whole or len(trained) + len(scored) <= COMPARED):
        shared = _same_content(trained, scored)
    if not shared:
        return
    first, other = next(iter(shared.items()))
    text = (
        f"{len(shared)} of the {len(scored)} images to score ({split}) are {known}, such as {first}"
        f"{f', which is a copy of {other}' if is_copy else ''}"
    )
    if is_copy and data.dataset in PUBLISHED and len(shared) <= FEW * len(scored):
        _warn(text)
        return
    raise ValueError(
        f"data: {text}, so the scores tell nothing of other images; {cure}, or say data.allow_overlap=true"
    )


def _same_paths(trained: Iterable[str], scored: Iterable[str]) -> dict[str, str]:
    """Files to score that are trained on -> the path they are trained on by; nothing is looked at."""
    known = {os.path.abspath(path): path for path in trained}
    return {path: known[os.path.abspath(path)] for path in scored if os.path.abspath(path) in known}


def _same_content(trained: Iterable[str], scored: Iterable[str]) -> dict[str, str]:
    """Files to score -> one to train on of the same bytes (or the same file by another path).

    Sizes come first, then a few bytes of files of one size, and only where these are equal, too, the whole content.
    """
    pairs = [(path, False) for path in trained] + [(path, True) for path in scored]
    for key in (os.path.getsize, _middle, _digest):
        groups = defaultdict(list)
        for path, is_scored in pairs:
            groups[key(path)].append((path, is_scored))
        mixed = [group for group in groups.values() if len({is_scored for _, is_scored in group}) == 2]
        pairs = [pair for group in mixed for pair in group]
    originals = [next(path for path, is_scored in group if not is_scored) for group in mixed]
    return {path: one for group, one in zip(mixed, originals) for path, is_scored in group if is_scored}


def _middle(path: str) -> bytes:
    """A few bytes in which two files of one size differ unless they are equal."""
    with _opened(path) as file:
        file.seek(max(os.path.getsize(path) // 2 - CHUNK // 2, 0))
        return file.read(CHUNK)


def _digest(path: str) -> bytes:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        with open_regular(path) as file:
            yield file
    except RefusedFile as error:
        raise ValueError(f"{path}: {error}") from None
