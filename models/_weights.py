"""Weights from files, or timm's ImageNet ones: read without running code, checked key by key before any is copied."""

import logging
import pickle
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a torch file; a dict under `state_dict` or `model` and the
    prefix `module.` of DataParallel are unwrapped.

    Torch files are read with weights_only: a file from a stranger starts no code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file, or one that holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain values, or is no file of weights, and is not read because that "
            f"could run code ({first_line(error)}); save its state dict alone and give that file"
        ) from error
    except Exception as error:  # a damaged file can fail in any way: IndexError, AssertionError, ...
        raise ValueError(f"{path} cannot be read as a file of weights (truncated?): {first_line(error)}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: a dict of tensors, bare or under state_dict or model, is needed")
    return {key.removeprefix("module."): value for key, value in state.items()}


def first_line(error: Exception) -> str:
    """The beginning of an error's text: torch's and safetensors' go on for pages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """timm's published weights called `name`, from its cache or its download.

    Raises:
        FileNotFoundError: they are not here and cannot be fetched.
    """
    # the network timm builds around them must not advance the generator the run was seeded with
    with torch.random.fork_rng(devices=[]):
        try:
            return timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:  # which one depends on the download client timm finds
            raise FileNotFoundError(
                f"the ImageNet weights {name} are not in timm's cache and could not be downloaded; "
                "set pretrained: false, or give a local file as backbone_weights"
            ) from error


def shown(keys: list[str]) -> str:
    """The first three of some keys, and how many more there are."""
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def fill(
    module: nn.Module, state: dict[str, Tensor], source: str, *, dropped: tuple[str, ...] = (), strict: bool = True
) -> None:
    """Copies the tensors of `state` into a module, all or nothing, and logs `N of M tensors loaded`.

    Args:
        source: what the state is called in messages.
        dropped: key prefixes of `state` the module has no use for, such as a file's classifier.
        strict: every tensor of the module must come from `state` and the other way round. Otherwise those that fit
            are loaded and the rest is logged.

    Raises:
        ValueError: shapes that differ or nothing that fits (always), keys missing or left over (strict).
    """
    own = module.state_dict()
    given = {key: value for key, value in state.items() if not dropped or not key.startswith(dropped)}
    # older files know no batch counters; nothing reads them at a fixed momentum
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in own]
    common = [key for key in own if key in given]
    reshaped = [
        f"{key} is {tuple(given[key].shape)} there, {tuple(own[key].shape)} here"
        for key in common
        if given[key].shape != own[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    found = "; ".join(f"{len(keys)} {what}: {shown(keys)}" for what, keys in faults.items() if keys)
    report = f"{len(common) - len(reshaped)} of {len(own)} tensors loaded from {source}" + (
        f"; {found}" if found else ""
    )
    if reshaped or not common or (strict and found):
        raise ValueError(f"{source} does not fit this network: {found}")
    module.load_state_dict({key: given[key] for key in common}, strict=False)
    logger.info(report)


def load_backbone(backbone: nn.Module, pretrained: bool, file: str | None) -> None:
    """Gives a built backbone its published weights, if any are asked for, and logs how many tensors fitted.

    Args:
        pretrained: timm's ImageNet weights of `backbone.imagenet`.
        file: a local file with timm's (for ResNets also torchvision's) keys instead.

    Raises:
        ValueError: both asked for, none published, or the file does not fit. FileNotFoundError: not to be had.
    """
    if pretrained and file is not None:
        raise ValueError(f"pretrained and backbone_weights ({file}) exclude each other: drop one of them")
    if file is not None:
        fill(backbone, read_weights(file), str(file), dropped=backbone.dropped)
    elif pretrained:
        if backbone.imagenet is None:
            raise ValueError(
                "timm has no ImageNet weights for this backbone with this stem; set pretrained: false, "
                "or give a local file as backbone_weights"
            )
        fill(backbone, imagenet_weights(backbone.imagenet), backbone.imagenet, dropped=backbone.dropped)
