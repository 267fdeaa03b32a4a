"""The folder of a delivered network: what a recipe's `weights` may name, and what describes the network in it."""

from pathlib import Path
from typing import Annotated

from annotated_types import Interval
from pydantic import TypeAdapter, ValidationError

from segkd.runner.recipe.section import Side
from segkd.runner.recipe.text_file import read_json

MOST_CLASSES = 2**16
Level = Annotated[int, Interval(ge=0, le=255)]
# what a config.json may say besides
MAY_BE_LEFT_OUT = {"class_names": list[str], "palette": list[tuple[Level, Level, Level]], "resize": tuple[Side, Side]}


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
        """The one that a run folder, a student folder or a file in it means, if it describes a network of ours."""
        folders = (cls.of_run(path), cls(path)) if path.is_dir() else (cls(path.parent),)
        return next((folder for folder in folders if folder.is_ours), None)

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

    @property
    def recipe_name(self) -> str | None:
        """The name of the recipe that it was trained by; None where its config.json does not say."""
        try:
            return self.read_config().get("recipe")
        except ValueError:
            return None  # who loads it tells

    def read_config(self) -> dict:
        """What a network is built from. ValueError where that is no JSON, or a field is missing or wrong."""
        config = read_json(self.config_file, {"model": str, "args": dict, "num_classes": int})
        count = config["num_classes"]
        if not 0 < count <= MOST_CLASSES:
            raise ValueError(f"{self.config_file}: num_classes is {count}; it must be 1 to {MOST_CLASSES}")
        for key, kind in MAY_BE_LEFT_OUT.items():
            try:
                TypeAdapter(kind | None).validate_python(config.get(key))
            except ValidationError as error:
                raise ValueError(f"{self.config_file}: {key}: {error.errors()[0]['msg']}") from None
        for key in ("class_names", "palette"):
            if config.get(key) is not None and len(config[key]) != count:
                raise ValueError(f"{self.config_file}: {key} has {len(config[key])} entries for {count} classes")
        return config
