"""How often each class occurs in the training labels: counted once, kept beside the runs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch.utils.data import Dataset

from segkd.losses._task import LabelCounts
from segkd.runner.loading.content import checksum, known_to, stamp_of
from segkd.runner.loading.data_report import looks
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.text_file import read_json
from segkd.runner.run_folder.replacing import write_text

FORMAT = 1


def count_labels(recipe: Recipe, train_set: Dataset, accelerator: Accelerator) -> LabelCounts:
    """The counts of all labels that are trained on, but for those of extra images, the same in all processes.

    They are kept in <tracking.folder>/label_counts, under a checksum of the labels' files and of what the data set
    knows of its classes: a resume and other runs read them there.

    Raises:
        ValueError, OSError: a label cannot be read.
    """
    train_set = getattr(train_set, "labelled", train_set)
    key = checksum(FORMAT, [stamp_of(train_set, index) for index in range(len(train_set))], known_to(train_set))
    file = Path(recipe.tracking.folder) / "label_counts" / f"{key}.json"
    with accelerator.main_process_first():
        if not file.exists():
            counts = _count(recipe, train_set, shown=accelerator.is_main_process)
            if not accelerator.is_main_process:  # of a disk that shows others' files late
                return counts
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(dataclasses.asdict(counts)) + "\n")
        return LabelCounts(**read_json(file))


def _count(recipe: Recipe, train_set: Dataset, shown: bool) -> LabelCounts:
    pixels, images, around = (np.zeros(train_set.num_classes, np.int64) for _ in range(3))
    for histogram, _ in looks(train_set, recipe, title="counting labels", shown=shown):
        histogram = histogram[: train_set.num_classes]
        pixels += histogram
        images += histogram > 0
        around += (histogram > 0) * histogram.sum()
    return LabelCounts(pixels.tolist(), images.tolist(), around.tolist(), len(train_set))
