"""The folder of a delivered network: what a recipe's `weights` may name, and what describes the network in it."""

import json
from pathlib import Path


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
    def is_ours(self) -> bool:
        """Whether its config.json describes a network of ours: one without `model` is another library's."""
        return self.config_file.is_file() and '"model"' in self.config_file.read_text(errors="replace")

    def read_config(self) -> dict:
        """What a network is built from. ValueError where that is not JSON, or a field is missing."""
        try:
            config = json.loads(self.config_file.read_text())
        except ValueError as error:
            raise ValueError(f"{self.config_file} is no JSON ({error}); was it cut off?") from None
        fields = {"model": str, "args": dict, "num_classes": int}
        given = config if isinstance(config, dict) else {}
        wrong = ", ".join(key for key, kind in fields.items() if not isinstance(given.get(key), kind))
        if wrong:
            raise ValueError(f"{self.config_file} was not written by segkd: {wrong} missing or of another type")
        return config
