"""A folder of predicted labels that tells whose they are: filled in any number of goes, never with two kinds."""

import json
import os
from pathlib import Path

import numpy as np

from segkd.runner.predicting.label_files import label_image
from segkd.runner.recipe.text_file import read_json
from segkd.runner.run_folder.replacing import write_text

# what a description says -> what to call a folder in which it is another
WORDS = {
    "teacher": "of another teacher",
    "images": "of other images",
    "seen": "of images that were predicted in another way",
    "kept": "that another threshold has kept",
}


class LabelFolder:
    """<path>/labels/<name>.png, and what they are a function of in <path>/description.json.

    Args:
        description: by the keys of WORDS, in plain values.
        named: how messages call the folder's place in a recipe or on the command line.

    Raises:
        ValueError: the folder holds other labels.
    """

    def __init__(self, path: Path, description: dict, named: str):
        self.path, self.description = path, description
        self.description_file = path / "description.json"
        self.labels = path / "labels"
        self.lowest_file = path / "lowest_steps.json"  # of each class, where a share decides what is kept
        if self.description_file.is_file():
            there = read_json(self.description_file)
            other = [words for key, words in WORDS.items() if there.get(key) != description.get(key)]
            if other or there.get("format") != description.get("format"):
                told = " and ".join(other) or "in another format"
                raise ValueError(f"{named}: {path} holds labels {told}; name another folder, or delete this one")
        elif self.labels.is_dir() and any(self.labels.iterdir()):
            raise ValueError(f"{named}: {path} holds labels, and nothing there says whose; name another folder")

    def describe(self) -> None:
        """Makes the folder and says what it is for."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.description_file, json.dumps(self.description, indent=1) + "\n")
        self.labels.mkdir(exist_ok=True)

    def file(self, name: str) -> Path:
        """The label of an image; one that is there is whole."""
        return self.labels / f"{name}.png"

    def write(self, name: str, labels: np.ndarray) -> None:
        """The (H, W) uint8 label of an image, in one step: neither a kill nor another process leaves half of one."""
        final = self.file(name)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{os.getpid()}.{final.name}")
        label_image(labels).save(partial, format="PNG")
        partial.replace(final)
