"""Weights of whole networks: which file a path in a recipe means, and whether it belongs to the network loading it."""

import json
from pathlib import Path

from torch import nn

from segkd.models._weights import fill, read_weights


def load_weights(network: nn.Module, path: str | Path, *, owner: str, strict: bool = True) -> None:
    """Loads a file, a run folder, a student folder or a checkpoint into a network, and logs how much of it fitted.

    Args:
        owner: the network's path in the recipe, for the messages.
        strict: see models/_weights.py:fill.

    Raises:
        FileNotFoundError: nothing there, or a run that has not finished. ValueError: the weights are another network's.
    """
    file = weights_file(Path(path))
    try:
        fill(network, read_weights(file), str(file), strict=strict)
    except ValueError as error:
        raise ValueError(f"{owner}.weights: {error}; check model, args and the data set's class count") from None


def weights_file(path: Path) -> Path:
    """The file of weights that a path in a recipe means."""
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"there are no weights at {path}; give a .safetensors or .pth file, or a run folder")
    for name in ("student/model.safetensors", "model.safetensors", "student.safetensors"):
        if (path / name).is_file():
            return path / name
    unfinished = " (a run writes student/ when it ends; this one has not)" if (path / "recipe.yaml").is_file() else ""
    raise FileNotFoundError(
        f"{path} holds no student/model.safetensors, model.safetensors or student.safetensors{unfinished}"
    )


def check_same_network(path: str | Path, *, owner: str, model: str, normalize: str) -> None:
    """ValueError where a run folder's student was trained as another model or with another normalisation."""
    config = next(
        (file for file in (Path(path) / "student/config.json", Path(path) / "config.json") if file.is_file()), None
    )
    if config is None:
        return
    trained = json.loads(config.read_text())
    for field, here in (("model", model), ("normalize", normalize)):
        if trained.get(field, here) != here:
            raise ValueError(
                f"{owner}: {path} was trained with {field}: {trained[field]}, the recipe says {here}; "
                f"write {field}: {trained[field]}"
            )
