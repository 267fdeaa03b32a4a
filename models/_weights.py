"""Published backbone weights: from a file, or timm's ImageNet ones, checked key by key before anything is copied."""

import logging
import pickle
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a torch file; a dict under `state_dict` or `model` is unwrapped.

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
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read as a file of weights: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: a dict of tensors, bare or under state_dict or model, is needed")
    return state


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


def fill_backbone(backbone: nn.Module, state: dict[str, Tensor], source: str) -> str:
    """Copies every tensor of `state` into the backbone, all or nothing.

    Returns:
        "N of M tensors of <source> ...": N copied, M in the state; the rest is the file's classifier.

    Raises:
        ValueError: tensors are missing, left over (other than `backbone.dropped`) or of another shape.
    """
    own = backbone.state_dict()
    used = {key: value for key, value in state.items() if not key.startswith(backbone.dropped)}
    # older files know no batch counters; nothing reads them at a fixed momentum
    missing = [key for key in own if key not in used and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in used if key not in own]
    reshaped = [
        f"{key} is {tuple(used[key].shape)}, not {tuple(own[key].shape)}"
        for key in used
        if key in own and used[key].shape != own[key].shape
    ]
    faults = {"missing": missing, "not in the backbone": unexpected, "of another shape": reshaped}
    if any(faults.values()):
        found = "; ".join(f"{len(keys)} {what} ({shown(keys)})" for what, keys in faults.items() if keys)
        raise ValueError(f"{source} does not fit this backbone: {found}; check backbone and stem")
    backbone.load_state_dict(own | used)
    return f"{len(used)} of {len(state)} tensors of {source} loaded into the backbone"


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
        logger.info(fill_backbone(backbone, read_weights(file), str(file)))
    elif pretrained:
        if backbone.imagenet is None:
            raise ValueError(
                "timm has no ImageNet weights for this backbone with this stem; set pretrained: false, "
                "or give a local file as backbone_weights"
            )
        logger.info(fill_backbone(backbone, imagenet_weights(backbone.imagenet), backbone.imagenet))
