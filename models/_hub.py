"""Networks of Hugging Face's transformers from a hub id, a local folder or a configuration alone."""

import logging
import pickle
from pathlib import Path

import numpy as np
import transformers
from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils.logging import disable_progress_bar

from ._prediction import Normalize
from ._state_dicts import shown
from ._weights import first_line, refuse_impossible

logger = logging.getLogger(__name__)
disable_progress_bar()  # of reading weights that are here already; those of downloads stay

# encoders whose keys in a file of the whole network begin otherwise, and transformers does not know it
BEGINNINGS = dict.fromkeys(("sam2_vision_model", "sam3_vision_model"), {r"^(detector_model\.)?vision_encoder\.": ""})


def read_config(name: str, revision: str | None, config: dict | None) -> PretrainedConfig:
    """The configuration at `name`, or the one a dict with `model_type` describes.

    Raises:
        FileNotFoundError: no such folder or id. ValueError: a configuration transformers does not know, or one that
            asks for code.
    """
    found = _published_config(name, revision) if config is None else _given_config(config)
    _refuse_code(found, name or "config")
    return found


def _given_config(config: dict) -> PretrainedConfig:
    if config.get("model_type") is None:
        raise ValueError("config needs a model_type, such as segformer; config.json of any network of its kind has it")
    try:
        return AutoConfig.for_model(**config)
    except Exception as error:  # its checks are its own: KeyError, TypeError, StrictDataclassError, ...
        raise ValueError(f"config: transformers refuses it: {first_line(error)}") from error


def _published_config(name: str, revision: str | None) -> PretrainedConfig:
    if Path(name).is_dir():
        refuse_pipes(Path(name))
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise _absent(name, FileNotFoundError("a folder without config.json"))
    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise _absent(name, error) from error
    except ValueError as error:
        raise ValueError(
            f"{name}: transformers {transformers.__version__} has no network for its config.json, and code that comes "
            f"with weights is never run: {first_line(error)}"
        ) from error
    except Exception as error:  # its checks are its own, as of a configuration that is given
        raise ValueError(
            f"{name}: transformers refuses its config.json: {' '.join(str(error).split())[:300]}"
        ) from error


def refuse_pipes(folder: Path) -> None:
    """ValueError where a folder holds something that is no file and no folder: who reads a pipe waits for ever."""
    for path in folder.iterdir():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is a pipe, a socket or a device, and no file of a network")


def _refuse_code(config: PretrainedConfig, source: str) -> None:
    """ValueError where a configuration, or one inside of it, names kernels on the hub: transformers would run them."""
    for key in ("_attn_implementation", "_experts_implementation"):
        if "/" in str(getattr(config, key, None)):
            raise ValueError(
                f"{source}: its {key.lstrip('_')} {getattr(config, key)!r} is code on the hub, which is never run; "
                f"remove it"
            )
    for inner in vars(config).values():
        if isinstance(inner, PretrainedConfig):
            _refuse_code(inner, source)


def architecture(config: PretrainedConfig, source: str) -> type[PreTrainedModel]:
    """The class of transformers that makes class scores or masks of such a configuration. ValueError: there is none."""
    kinds = transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING, transformers.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
    for kind in kinds:
        if type(config) in kind:
            found = kind[type(config)]
            return found[0] if isinstance(found, (tuple, list)) else found
    raise ValueError(
        f"{source}: transformers {transformers.__version__} has no segmentation network of type {config.model_type}"
    )


def image_encoder(config: PretrainedConfig, source: str) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """The class of transformers that encodes images for such a configuration, and its part of it.

    Raises:
        ValueError: there is none.
    """
    for part in ("detector_config", "vision_config"):
        inner = getattr(config, part, None)
        config = inner if isinstance(inner, PretrainedConfig) else config
    if config.model_type in ("timm_wrapper", "timm_backbone"):
        raise ValueError(f"{source} is a network of timm; write timm/<its name there>")
    if type(config) in transformers.MODEL_MAPPING:
        found = transformers.MODEL_MAPPING[type(config)]
        kind = found[0] if isinstance(found, (tuple, list)) else found
        if kind.main_input_name == "pixel_values":
            return kind, config
    raise ValueError(
        f"{source}: transformers {transformers.__version__} has no encoder of images of type {config.model_type}"
    )


def own_names(config: PretrainedConfig, source: str) -> list[str]:
    """The names of a published network's classes, in the order of its scores. ValueError: ids without a name."""
    ids, count = sorted(int(index) for index in config.id2label), config.num_labels
    if ids != list(range(count)):
        missing = [str(index) for index in range(max(ids) + 1) if index not in ids]
        raise ValueError(
            f"{source}: id2label in its config.json names the ids {shown([str(index) for index in ids])}, and "
            f"{shown(missing)} not; its {count} classes must be named 0 to {count - 1} without a gap"
        )
    return [config.id2label[index] for index in range(count)]


def build(kind: type[PreTrainedModel], config: PretrainedConfig, source: str) -> PreTrainedModel:
    """The network with random weights. ValueError where transformers cannot build it from this configuration."""
    try:
        return kind(config).float()
    except Exception as error:  # its networks check little: what is missing ends in any error
        raise ValueError(f"{source}: {kind.__name__} cannot be built from it: {first_line(error)}") from error


def load(
    kind: type[PreTrainedModel], config: PretrainedConfig, name: str, revision: str | None
) -> tuple[PreTrainedModel, list[str]]:
    """The network with its published weights, and the names of the parameters they do not fit, which start at random.

    Raises:
        FileNotFoundError: no weights there. ValueError: a file that does not fit.
    """
    try:
        network, report = kind.from_pretrained(
            name,
            config=config,
            revision=revision,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **({"key_mapping": BEGINNINGS[config.model_type]} if config.model_type in BEGINNINGS else {}),
        )
    except OSError as error:
        raise _absent(name, error) from error
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{name}: its weights cannot be read ({first_line(error)}): a damaged file, or a .bin that could start code"
        ) from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{name}: its weights do not fit {kind.__name__}: {first_line(error)}") from error
    parameters = dict(network.named_parameters())
    other_shape = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    fresh = [key for key in parameters if key in {*report["missing_keys"], *other_shape}]
    logger.info("%d of %d parameters loaded from %s", len(parameters) - len(fresh), len(parameters), name)
    if len(fresh) == len(parameters):
        raise ValueError(f"{name}: none of its weights is one of {kind.__name__}; they belong to another network")
    if fresh:
        logger.warning(
            "%s has no weights that fit %d parameters, which start at random: %s", name, len(fresh), shown(fresh)
        )
    # a file in half precision gives a network in half precision
    state = network.float().state_dict()
    refuse_impossible(state, {key: x.float() if key in parameters else x for key, x in state.items()}, name)
    return network, fresh


def under_names_in_memory(
    kind: type[PreTrainedModel], config: PretrainedConfig, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """A file's entries under the names that this version of transformers has for them in a network, if they are its."""
    network, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=dict(state),
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        key_mapping=BEGINNINGS.get(config.model_type),
    )
    other_shape = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    lacking = {*report["missing_keys"], *other_shape}
    return {key: value for key, value in network.state_dict().items() if key not in lacking}


PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # where transformers looks for it


def read_normalize(name: str, revision: str | None) -> Normalize:
    """The constants of the image processor saved beside the weights; ImageNet's where there is none.

    Its rescaling factor and its normalisation become one mean and one std in grey levels. `do_reduce_labels` in it
    concerns label files only: the class names of such a network have no background already.
    """
    try:
        values, _ = BaseImageProcessor.get_image_processor_dict(name, revision=revision)
    except (OSError, ValueError) as error:
        if Path(name).is_dir() or all(_is_absent(name, file, revision) for file in PROCESSORS):
            logger.info("%s has no preprocessor_config.json: images are normalised with ImageNet's constants", name)
        else:
            told = (
                "%s: what its images are normalised with could not be read (%s), and is taken to be ImageNet's: load "
            )
            told += "its preprocessor_config.json, too, or say normalize: in the recipe"
            logger.warning(told, name, str(error).splitlines()[0][:160])
        return Normalize.named("imagenet")
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type"))
    # of some kinds the class alone says that they do not normalise, which is not written then
    normalises = values.get("do_normalize", not kind.startswith(("MobileViT", "GLPN", "Swin2SR")))
    if normalises and "image_mean" not in values and "do_flip_channel_order" not in values:
        return Normalize.named("imagenet")
    order = "bgr" if values.get("do_flip_channel_order", False) else "rgb"
    unit = 1.0 / values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    if not normalises or values.get("image_mean") is None:
        return Normalize((0.0, 0.0, 0.0), (unit, unit, unit), order)
    # a number for all channels or three, in grey levels
    mean, std = (np.broadcast_to(values[key], 3) * unit for key in ("image_mean", "image_std"))
    if kind.startswith("EfficientNet") and values.get("include_top", True):
        std = std * std / unit  # which it divides by twice
    return Normalize(mean.tolist(), std.tolist(), order)


def _is_absent(name: str, file: str, revision: str | None) -> bool:
    """Whether the Hub is known to have no such file in a repository, by the cache."""
    return try_to_load_from_cache(name, file, revision=revision) is _CACHED_NO_EXIST


def _absent(name: str, error: Exception) -> FileNotFoundError:
    """What to do where transformers finds nothing."""
    return FileNotFoundError(
        f"{name!r} is neither a local folder with config.json and weights nor a network the Hugging Face hub gives "
        f"({first_line(error)}); check the id, the connection and HF_HUB_OFFLINE, log in (hf auth login) where its "
        f"owner asks for it, or give a local folder"
    )
