"""Reads weights from files and folders without running any code in them, and loads them into a network completely or not at all."""

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

LISTED = 5  # how many tensor names an error shows


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file, of a run folder (its student), of a student folder or of a checkpoint.

    Raises:
        FileNotFoundError: there is nothing at `path`, or the run has not finished.
        ValueError: the file is truncated, or holds anything but tensors and plain values.
    """
    file = weights_file(Path(path))
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{file} cannot be read as weights (truncated, or another format): {_first_line(error)}") from None
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} holds more than tensors, and loading it could run code: {_first_line(error)}; "
                         f"save its state_dict alone and give that file") from None
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    tensors = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)} \
        if isinstance(state, dict) else {}
    if not tensors:
        raise ValueError(f"{file} holds no tensors by name; a state_dict is expected")
    return tensors


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
    raise FileNotFoundError(f"{path} holds no student/model.safetensors, model.safetensors or student.safetensors{unfinished}")


def load_weights(network: nn.Module, path: str | Path, *, owner: str, strict: bool = True) -> str:
    """Loads a file into a network and returns the report `N of M tensors loaded`.

    Args:
        owner: the network's path in the recipe, for the messages.
        strict: every tensor of the network must come from the file and the other way round.

    Raises:
        ValueError: shapes that differ (always), or names missing and unexpected (strict). Nothing is loaded then.
    """
    loaded, own = read_weights(path), network.state_dict()
    shapes = [f"{key} is {tuple(loaded[key].shape)} in the file and {tuple(own[key].shape)} in the network"
              for key in own if key in loaded and loaded[key].shape != own[key].shape]
    missing = [key for key in own if key not in loaded]
    unexpected = [key for key in loaded if key not in own]
    fitting = len(own) - len(missing) - len(shapes)
    report = f"{owner}: {fitting} of {len(own)} tensors loaded from {path}"
    if shapes or (strict and (missing or unexpected)) or fitting == 0:
        raise ValueError("; ".join([f"{owner}: the weights at {path} are not this network's: {fitting} of {len(own)} tensors fit",
                                    *_listed("other shapes", shapes), *_listed("missing", missing),
                                    *_listed("unexpected", unexpected),
                                    "check model, args and the data set's class count" + (", or strict: false" if not shapes else "")]))
    network.load_state_dict({key: loaded[key] for key in own if key in loaded}, strict=False)
    return "; ".join([report, *_listed("missing", missing), *_listed("unexpected", unexpected)])


def check_same_network(path: str | Path, *, owner: str, model: str, normalize: str) -> None:
    """ValueError where a run folder's student was trained as another model or with another normalisation."""
    config = next((file for file in (Path(path) / "student/config.json", Path(path) / "config.json") if file.is_file()), None)
    if config is None:
        return
    trained = json.loads(config.read_text())
    for field, here in (("model", model), ("normalize", normalize)):
        if trained.get(field, here) != here:
            raise ValueError(f"{owner}: {path} was trained with {field}: {trained[field]}, the recipe says {here}; "
                             f"write {field}: {trained[field]}")


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return [f"{what}: {', '.join(names[:LISTED])}{more}"]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
