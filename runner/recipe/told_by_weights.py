"""What the weights a recipe names tell of their network, so that nobody has to write it again."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from segkd.runner.recipe import parts
from segkd.runner.recipe.hub import place_of
from segkd.runner.recipe.mistakes import Mistake
from segkd.runner.recipe.student_folder import StudentFolder, described

# what one network may be used with in another way than it was trained: a recipe's word goes first
FREE = {"pretrained", "backbone_weights", "dropout", "dropout_kind", "projection_dropout", "drop_path", "head_init",
        "output_stride", "aux", "aux_width", "distill_heads", "lora_rank", "lora_alpha", "lora_targets",
        "prompt_guidance", "image_size", "head", "head_width", "neck_width", "taps", "full_size"}  # fmt: skip
# what a layout takes for granted: no entry of a file tells it
IMPLIED = {"align_corners", "dilation_rule", "norm_eps", "norm_momentum", "reduction_eps", "neck_scales"}
LEAVE = "leave source, model and args.head out, the weights tell them"


@dataclass(frozen=True)
class Told:
    """A network as its weights tell it.

    Attributes:
        model: file name in models/. args: its arguments, as plain YAML values.
        certain: whether all of it was written down by the run that trained it; else some of it is another code's habit.
    """

    model: str
    args: dict
    certain: bool

    @property
    def title(self) -> str:
        """`deeplabv3 resnet18`."""
        return parts.network_words(self.model, self.args)


def told_by(path: str, layout: str | None, part: str | None) -> Told | None:
    """What a file or folder of weights tells; None where it is not there, cannot be read or tells nothing.

    Reading a recipe runs no code: a file that is read with --trust-checkpoint alone tells nothing here. What is wrong
    with weights says whoever loads them.
    """
    try:
        place = place_of(path)
        config = described(place)
        if config is not None:
            return Told(config["model"], config["args"], certain=True)
        if place.is_dir() and StudentFolder(place).weights_file.is_file():
            place = StudentFolder(place).weights_file
        if not place.is_file():
            return None
        said = exported(place)
        if said:
            return Told(said["model"], said["args"], certain=True)
        return _told_by_keys(place, layout, part, _version(place))
    except (ValueError, OSError):
        return None


def folder_of_transformers(place: Path) -> Path | None:
    """The folder that save_pretrained of transformers wrote a network to, given it or its file; None: it is no such."""
    folder = place if place.is_dir() else place.parent
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return folder if isinstance(config, dict) and "model_type" in config else None


def unreadable(place: Path, part: str | None) -> str:
    """What is wrong with a file of weights that is there; empty where it can be read, and for a folder."""
    from segkd.models import _weights

    try:
        if place.is_file():
            _weights.read_part(place, part)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def is_of_smp(file: Path, part: str | None) -> bool:
    """Whether a file holds a network of segmentation_models_pytorch."""
    from segkd.models import _checkpoints, _weights

    try:
        return file.is_file() and _checkpoints.is_of_smp(_checkpoints.one_network(*_weights.read_part(file, part)))
    except (ValueError, OSError):
        return False


def exported(file: Path) -> dict:
    """What a file that was written for another code says of the network of ours that it was made of; else empty."""
    return _exported(file, _version(file)) if file.is_file() and file.suffix != ".safetensors" else {}


def _version(file: Path) -> tuple[int, int]:
    """What tells two states of a file apart."""
    state = file.stat()
    return state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=64)
def _exported(file: Path, version: tuple[int, int]) -> dict:
    from segkd.models import _weights  # seconds, for those whose weights are there

    return _weights.exported_from(_weights.meta_of(file))


@functools.lru_cache(maxsize=64)  # the recipes of a sweep name the same few files
def _told_by_keys(path: Path, layout: str | None, part: str | None, version: tuple[int, int]) -> Told | None:
    """What the keys and shapes of a file of another code tell."""
    from segkd.models import _checkpoints, _weights

    state, part = _weights.read_part(path, part)
    found = _checkpoints.describe(state, layout or _checkpoints.guess(state, part), part)
    return Told(found.model, json.loads(json.dumps(found.args)), certain=False)


def fill(entry: dict, told: Told, weights: str) -> tuple[list[Mistake], str]:
    """Writes into a network's section what its weights tell and it does not say, in place.

    Returns:
        What it says and they contradict; what was taken, in words.
    """
    says_model, args = entry.get("model") is not None, entry.get("args", {})
    if not isinstance(args, dict) or not isinstance(entry.get("source", "segkd"), str):
        return [], ""  # the schema says so
    source = entry.get("source", "segkd")
    if source != "segkd" and not says_model:
        return [(("source",), f"{weights} tells a network of segkd's; leave source out, or write the model")], ""
    if source == "timm" and says_model and "head" not in args:  # which has one of several heads of ours
        args = {"head": None if told.model == parts.BARE else told.model, **args}
    file, given = parts.network_part(source, entry["model"], args) if says_model else (told.model, args)
    trained = f"{weights} was trained as {told.title}" if told.certain else f"{weights} holds a {told.title}"
    encoder_alone = told.model == parts.BARE and file != parts.BARE  # any network may have it
    if file == "huggingface" and not told.certain:  # which reads its own names whatever ours are for them
        return [], ""
    if file != told.model and not encoder_alone:
        if source == "segkd":
            return [(("model",), f"{trained}, the recipe says {file}; write model: {told.model}, or leave it out")], ""
        return [((), f"{trained}, the recipe says {file} with source: {source}; {LEAVE}")], ""
    if not told.certain and file == "sam":
        return [], ""  # a file of SAM is an encoder, whatever head the recipe puts on it
    known = {key: value for key, value in told.args.items() if key not in ("pretrained", "backbone_weights")}
    if encoder_alone:
        known = {key: value for key, value in known.items() if key in ("backbone", "stem")}
    free = FREE if told.certain else FREE | IMPLIED
    wrong = [
        (("args", key), f"{trained} with {key}: {known[key]}, the recipe says {value}; leave it out")
        if key != "backbone" or source == "segkd"
        else (("model",), f"{trained} with backbone: {known[key]}, the recipe says {value}; {LEAVE}")
        for key, value in given.items()
        if key in known and key not in free and value not in (None, known[key])
        if not isinstance(value, dict) and not isinstance(known[key], dict)  # a configuration, or the name of one
    ]
    if file == "huggingface" and given:  # by its name: a configuration beside it would be a second one
        return wrong, ""
    taken = {key: value for key, value in known.items() if given.get(key) is None and value is not None}
    entry["model"] = entry.get("model") or told.model  # also where args are wrong: one mistake, not two
    if not wrong:
        entry["args"] = parts.arguments_in_recipe(source, file, given | taken)
    shown = ", ".join(f"{key}: {value}" for key, value in taken.items() if not isinstance(value, dict))
    kind = "on the encoder they are of" if encoder_alone else told.model
    return wrong, "" if wrong or not (taken or not says_model) else f"{kind}, {shown}".rstrip(", ")
