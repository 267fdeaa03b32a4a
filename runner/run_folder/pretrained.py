"""A delivered network without its recipe.

from segkd.runner.run_folder.pretrained import from_pretrained
network = from_pretrained("runs/quickstart")                             # or a student folder, or a Hub id
classes = network(images).resized(images.shape[-2:]).argmax(1)           # images (B, 3, H, W) uint8 RGB
"""

import json
import re
from pathlib import Path

import torch
from torch import nn

from segkd.models._prediction import Normalize
from segkd.models._weights import fill, read_weights
from segkd.runner.recipe import parts
from segkd.runner.recipe.mistakes import did_you_mean, dotted

FILES = ("config.json", "model.safetensors")
# the folder has all weights, so nothing may be fetched or read to start from
NO_START = {"pretrained": False, "backbone_weights": None}


def from_pretrained(source: str | Path, *, revision: str | None = None) -> nn.Module:
    """The network in a run folder, a student folder, or a repository `user/name` of the Hugging Face Hub.

    Only JSON and tensors are read and only our own networks are built: a stranger's folder starts no code.

    Args:
        source: a folder that is there is taken before the Hub is asked.
        revision: branch, tag or commit on the Hub.

    Returns:
        The network in eval mode on the CPU, float32. It normalises by itself: forward(images (B, 3, H, W) uint8 RGB).
        Its attribute `class_names` has the K names.

    Raises:
        FileNotFoundError: no such folder or repository, or a run that has not finished.
        ValueError: a config.json or weights that are none of ours.
    """
    folder = delivered_folder(source, revision)
    config = read_config(folder)
    network = build(config, str(folder / "config.json"))
    file = folder / "model.safetensors"
    fill(network, read_weights(file), str(file))
    return network


def delivered_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder with config.json and model.safetensors that a path or a Hub id means."""
    path = Path(source)
    for folder in (path / "student", path):
        if all((folder / name).is_file() for name in FILES):
            return folder
    if path.exists():
        unfinished = (
            " (a run writes student/ when it ends; this one has not)" if (path / "recipe.yaml").exists() else ""
        )
        raise FileNotFoundError(f"{source} holds no delivered network, {' and '.join(FILES)}{unfinished}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise FileNotFoundError(
            f"there is no folder {source}; give a run folder, a student folder or a Hub id user/name"
        )
    return _downloaded(str(source), revision)


def _downloaded(name: str, revision: str | None) -> Path:
    import huggingface_hub  # asked only where nothing of that name is on the disk

    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:  # not there, no access, no network, HF_HUB_OFFLINE
        raise FileNotFoundError(
            f"there is no folder {name} here, and it could not be had from the Hub ({type(error).__name__}); check the "
            f"name, the network and, for a private one, the login (hf auth login)"
        ) from error
    if not all((folder / file).is_file() for file in FILES):
        raise FileNotFoundError(f"the Hub's {name} is no network delivered by segkd: it lacks {' or '.join(FILES)}")
    return folder


def read_config(folder: Path) -> dict:
    """config.json, with the fields a network is built from.

    Raises:
        ValueError: not JSON, or a field is missing.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); was it cut off?") from None
    fields = {"model": str, "args": dict, "num_classes": int}
    wrong = [
        key for key, kind in fields.items() if not isinstance(config, dict) or not isinstance(config.get(key), kind)
    ]
    if wrong:
        raise ValueError(f"{file} was not written by segkd: {', '.join(wrong)} missing or of another type")
    return config


def description(network: nn.Module, source: str, model: str, args: dict) -> dict:
    """What a config.json says of a network of a recipe: enough to build it with no other file and no download.

    Args:
        source, model, args: of its entry in the recipe.
    """
    file, arguments = parts.network_part(source, model, args)
    if hasattr(network, "arguments_without_files"):
        arguments = network.arguments_without_files()
    return {
        "model": file,
        "args": arguments,
        "num_classes": network.num_classes,
        "normalize": network.normalize.constants,
    }


def build(config: dict, source: str) -> nn.Module:
    """The network a config.json describes, with random weights, in eval mode. ValueError names `source`."""
    model, known = config["model"], parts.names("models")
    if model not in known:
        hint = did_you_mean(model, known) or f"; there are: {', '.join(known)}"
        raise ValueError(f"{source}: no model {model!r}{hint}")
    args = {key: NO_START.get(key, value) for key, value in config["args"].items()}
    for key, text in parts.wrong_arguments("models", model, args):
        raise ValueError(f"{source}: args.{dotted(key)}: {text}")
    with torch.random.fork_rng(devices=[]):  # a draw that is thrown away must not show in the caller's next one
        network = parts.build("models", model, args, config["num_classes"])
    if config.get("normalize") is not None:
        network.normalize = Normalize.of(config["normalize"])
    network.class_names = config.get("class_names") or [str(index) for index in range(config["num_classes"])]
    return network.eval()
