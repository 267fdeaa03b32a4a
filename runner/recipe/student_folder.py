"""The folder of a delivered network: what a recipe's `weights` may name, and what describes the network in it."""

import json
from pathlib import Path
from typing import Annotated

from annotated_types import Interval
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from segkd.runner.recipe.section import Constants, Side
from segkd.runner.recipe.text_file import parse_json, read_text

CHECKPOINTS = "checkpoints"  # of a run folder
CHECKPOINT_FILE = "student.safetensors"  # the network in a run's checkpoint
# under which the header of each file of weights describes its network, for those that are moved; nothing in it depends
# on how a run is called or came to its end: trainings that are alike end with the same bytes
HEADER = "segkd"
IN_HEADER = ("model", "args", "num_classes", "normalize", "int8", "class_names", "palette", "ignore_index", "resize")
MOST_CLASSES = 2**16
MUST_BE_THERE = {"model": str, "args": dict, "num_classes": int}
Level = Annotated[int, Interval(ge=0, le=255)]
# what a config.json may say besides
MAY_BE_LEFT_OUT = {
    "class_names": list[str],
    "palette": list[tuple[Level, Level, Level]],
    "resize": tuple[Side, Side],
    "normalize": Constants | str,
}


class StudentFolder:
    """A delivered network, which loads without its recipe."""

    def __init__(self, path: Path):
        self.path = path
        self.config_file = path / "config.json"  # model, arguments, classes, constants of normalisation
        self.weights_file = path / "model.safetensors"  # all weights, under our names

    @classmethod
    def of_run(cls, path: Path) -> "StudentFolder":
        """That of the run in a folder."""
        return cls(path / "student")

    @classmethod
    def around(cls, path: Path) -> "StudentFolder | None":
        """The one that a run folder, a student folder or its file of weights means, if it describes a network of ours.

        Another file that lies in it was put there, and is of a network of its own.
        """
        folders = (cls.of_run(path), cls(path)) if path.is_dir() else (cls(path.parent),)
        return next((one for one in folders if one.is_ours and (path.is_dir() or path == one.weights_file)), None)

    @property
    def is_complete(self) -> bool:
        """Whether both files are there."""
        return self.config_file.is_file() and self.weights_file.is_file()

    @property
    def is_unfinished(self) -> bool:
        """Whether its run was delivered as it stood, before its end."""
        return self.config_file.is_file() and '"unfinished"' in self.config_file.read_text(errors="replace")

    @property
    def is_ours(self) -> bool:
        """Whether its config.json describes a network of ours: one without `model` is another library's."""
        return self.config_file.is_file() and '"model"' in self.config_file.read_text(errors="replace")

    def read_config(self) -> dict:
        """What a network is built from. ValueError where that is no JSON, or a field is missing or wrong."""
        return _parse_config(read_text(self.config_file), self.config_file)


def described(path: Path) -> dict | None:
    """What a config.json says of the network whose weights a path means, None where nothing does.

    A run folder and a student folder have that file, also for the weights in them. Checkpoints, and what was moved
    elsewhere, say it themselves, and of older checkpoints their run, once it has delivered.

    Raises:
        ValueError: it is no JSON, or a field is missing or wrong.
    """
    student = StudentFolder.around(path)
    if student is not None:
        return student.read_config()
    files = (StudentFolder(path).weights_file, path / CHECKPOINT_FILE) if path.is_dir() else (path,)
    for file in filter(Path.is_file, files):  # a pipe would be waited for
        try:
            with safe_open(file, "numpy") as opened:
                text = (opened.metadata() or {}).get(HEADER)
        except (SafetensorError, OSError):  # no such file; what is wrong with it says who loads it
            continue
        if text is not None:
            return _parse_config(text, file)
    run = run_of_checkpoint(path)
    delivered = run and StudentFolder.of_run(run)
    return delivered.read_config() if delivered and delivered.is_ours else None


def run_of_checkpoint(path: Path) -> Path | None:
    """The run folder that a checkpoint, or a file in one, lies in; None for any other path."""
    runs = (folder.parent for folder in path.parents if folder.name == CHECKPOINTS)
    return next((run for run in runs if (run / "recipe.yaml").is_file()), None)


def _parse_config(text: str, file: Path) -> dict:
    config = parse_json(text, file, MUST_BE_THERE)
    count = config["num_classes"]
    if not 0 < count <= MOST_CLASSES:
        raise ValueError(f"{file}: num_classes is {count}; it must be 1 to {MOST_CLASSES}")
    for key, kind in MAY_BE_LEFT_OUT.items():
        try:
            TypeAdapter(kind | None).validate_json(json.dumps(config.get(key)))
        except ValidationError as error:
            wrong = error.errors()[0]
            inside = wrong["loc"][1:] if isinstance(config[key], dict) else ()  # behind the kind's name
            raise ValueError(f"{file}: {'.'.join([key, *map(str, inside)])}: {wrong['msg']}") from None
    for key in ("class_names", "palette"):
        if config.get(key) is not None and len(config[key]) != count:
            raise ValueError(f"{file}: {key} has {len(config[key])} entries for {count} classes")
    return config
