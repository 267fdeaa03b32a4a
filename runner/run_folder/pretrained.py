"""A delivered network without its recipe.

from segkd.runner.run_folder.pretrained import from_pretrained
network = from_pretrained("runs/quickstart")                             # or a student folder, or a Hub id
classes = network(images).resized(images.shape[-2:]).argmax(1)           # images (B, 3, H, W) uint8 RGB
"""

import logging
import re
from pathlib import Path

import torch
from torch import nn

from segkd.models._int8 import Rounded, simulate_int8
from segkd.models._prediction import Normalize
from segkd.models._weights import fill, read_weights
from segkd.runner.recipe import hub, parts
from segkd.runner.recipe.mistakes import did_you_mean, dotted
from segkd.runner.recipe.shipped import near
from segkd.runner.recipe.student_folder import StudentFolder
from segkd.runner.run_folder.folder import RunFolder

# arguments that say where weights to start from are: a network built without downloading or reading any
WITHOUT_DOWNLOADS = {"pretrained": False, "backbone_weights": None}


def from_pretrained(source: str | Path, *, revision: str | None = None) -> nn.Module:
    """The network in a run folder, a student folder, or a repository `user/name` of the Hugging Face Hub.

    A folder inside of a repository is `hf://user/name[@revision]/path`.

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
    student = find_student(source, revision)
    return load(student.read_config(), str(student.config_file), student.weights_file)


def load(config: dict, source: str, weights: Path) -> nn.Module:
    """The network that `source` describes, with its weights. ValueError: they are none of ours, or another's."""
    network = build(config, source)
    # that a network of ours fits is nothing to tell
    fill(network, read_weights(weights), str(weights), level=logging.DEBUG)
    return network


def find_student(source: str | Path, revision: str | None = None) -> StudentFolder:
    """The student folder that a run folder, a student folder or a Hub id means.

    Raises:
        FileNotFoundError: no such folder or repository, or a run that has not finished.
    """
    path = hub.place_of(source)
    for student in (RunFolder(path).student, StudentFolder(path)):
        if student.is_complete:
            return student
    files = [file.name for file in (student.config_file, student.weights_file)]
    if path.exists():
        unfinished = " (a run writes student/ when it ends; this one has not)" if RunFolder(path).is_begun else ""
        raise FileNotFoundError(f"{source} holds no delivered network, {' and '.join(files)}{unfinished}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise FileNotFoundError(
            f"there is no folder {source}{near(path)}; give a run folder, a student folder or a Hub id user/name"
        )
    try:  # only where nothing of that name is on the disk
        student = StudentFolder(hub.download(str(source), revision, tuple(files)))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no folder {source} here{near(path)}; {error}") from error
    if not student.is_complete:
        raise FileNotFoundError(f"the Hub's {source} is no network delivered by segkd: it lacks {' or '.join(files)}")
    return student


def description(network: nn.Module, source: str, model: str, args: dict) -> dict:
    """What a config.json says of a network of a recipe: enough to build it with no other file and no download.

    Args:
        source, model, args: of its entry in the recipe.
    """
    file, arguments = parts.network_part(source, model, args)
    arguments, normalize = network.arguments_without_files(arguments), network.normalize.constants
    described = {"model": file, "args": arguments, "num_classes": network.num_classes, "normalize": normalize}
    # also where its weights, and not its recipe, have made it so: its ranges are among its own
    return described | ({"int8": True} if any(isinstance(layer, Rounded) for layer in network.modules()) else {})


def build(config: dict, source: str) -> nn.Module:
    """The network a config.json describes, with random weights, in eval mode. ValueError names `source`."""
    model, known = config["model"], parts.names("models")
    if model not in known:
        hint = did_you_mean(model, known) or f"; there are: {', '.join(known)}"
        raise ValueError(f"{source}: no model {model!r}{hint}")
    args = {key: WITHOUT_DOWNLOADS.get(key, value) for key, value in config["args"].items()}
    for key, text in parts.wrong_arguments("models", model, args):
        raise ValueError(f"{source}: args.{dotted(key)}: {text}")
    with torch.random.fork_rng(devices=[]):  # a draw that is thrown away must not show in the caller's next one
        network = parts.build("models", model, args, config["num_classes"])
    if config.get("int8"):
        simulate_int8(network)
    if config.get("normalize") is not None:
        network.normalize = Normalize.of(config["normalize"])
    network.class_names = config.get("class_names") or [str(index) for index in range(config["num_classes"])]
    network.name_classes(network.class_names)
    return network.eval()
