"""From a file name in a recipe to a class of ours, arguments checked against its signature before anything is built."""

import functools
import importlib
import importlib.util
import inspect
import json
import traceback
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pydantic

from segkd.runner.recipe.mistakes import Key, Mistake, found_by

METRICS = "runner.scoring.metrics"  # the room of evaluate.metrics
# what the runner itself passes to a part of each room, and a recipe therefore cannot
GIVEN = {"datasets": {"root", "split"}, "models": {"num_classes"}, "losses": {"task"}, METRICS: {"split"}}
# parts a recipe configures without naming their file -> their class, and what the runner passes to it
UNNAMED = {"_transforms": ("Transform", {"crop_size"}), "_strong": ("StrongView", set()), "_mixing": ("Mix", set())}

BARE = "bare_encoder"  # the network that has no head


def names(room: str) -> list[str]:
    """The parts of a room: its files that do not begin with an underscore."""
    folders = importlib.import_module(f"segkd.{room}").__path__
    return sorted({path.stem for folder in folders for path in Path(folder).glob("[!_]*.py")})


def path_of(room: str, name: str) -> str:
    """The file of a part, from the root of the project."""
    return f"{room.replace('.', '/')}/{name}.py"


@functools.cache
def find(room: str, name: str) -> type:
    """The class a file is there for: the one whose name is the file's, in any letter case (kl.py -> KL).

    Raises:
        ValueError: there is none in it, or Python cannot import it.
    """
    module = _module(room, name)
    if name in UNNAMED:
        return getattr(module, UNNAMED[name][0])
    wanted = name.replace("_", "")
    found = [value for key, value in vars(module).items() if key.lower() == wanted and inspect.isclass(value)]
    if not found:
        raise ValueError(
            f"{path_of(room, name)} holds no class of its own name "
            f"(such as {name.title().replace('_', '')}, in any letter case)"
        )
    return found[0]


def _module(room: str, name: str) -> ModuleType:
    """The file of a part, imported. ValueError: it cannot be, and why, at which line of it."""
    found = importlib.util.find_spec(f"segkd.{room}.{name}")
    try:
        return importlib.import_module(f"segkd.{room}.{name}")
    except Exception as error:  # whatever a file may do when it is imported
        lines = [line for frame, line in traceback.walk_tb(error.__traceback__)
                 if found is not None and frame.f_code.co_filename == found.origin]  # fmt: skip
        why = str(error)
        if isinstance(error, SyntaxError) and found is not None and error.filename == found.origin:
            lines, why = [error.lineno], error.msg
        if not lines:
            raise
        raise ValueError(
            f"{path_of(room, name)}, line {lines[-1]}: Python cannot import the file: {type(error).__name__}: {why}"
        ) from error


def _hints(room: str, name: str, function: Callable) -> dict[str, object]:
    """The hints of a function of a part, with ranges: Annotated[float, Gt(0)]. ValueError: one names nothing."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ValueError(f"{path_of(room, name)}: a hint of {function.__qualname__} is not known: {error}") from error


@functools.cache
def _arguments(room: str, name: str) -> type[pydantic.BaseModel]:
    """The signature of a part as a schema, less what the runner gives. ValueError: no recipe can pass what it asks."""
    given = UNNAMED[name][1] if name in UNNAMED else GIVEN[room]
    part = find(room, name)
    hints = _hints(room, name, part.__init__)
    fields = {}
    for parameter in inspect.signature(part).parameters.values():
        if parameter.name not in given:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, typing.Any), default)
    rules = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    try:
        return pydantic.create_model(part.__name__, __config__=rules, **fields)
    except pydantic.PydanticUserError as error:
        raise ValueError(
            f"{path_of(room, name)}: an argument of {part.__name__} has a hint that no YAML value fits (numbers, texts, "
            f"lists and mappings do): {error.message.splitlines()[0]}"
        ) from error


def _bound(room: str, name: str, arguments: dict) -> pydantic.BaseModel:
    """The arguments in the types of the part's signature. pydantic.ValidationError where they do not fit."""
    # by way of JSON: pydantic's strict mode then takes a YAML list for a tuple, and nothing else for anything else
    return _arguments(room, name).model_validate_json(json.dumps(arguments))


def wrong_arguments(room: str, name: str, arguments: dict) -> list[Mistake]:
    """What does not fit the part's signature: unknown, missing and wrongly typed arguments."""
    try:
        _bound(room, name, arguments)
    except pydantic.ValidationError as error:
        return found_by(error, _arguments(room, name), arguments)
    return list(_out_of_reach(arguments))


def _out_of_reach(value: object, key: Key = ()) -> Iterator[Mistake]:
    """Numbers no computation is made for, where a hint has no range: in a mapping for another library."""
    if isinstance(value, (dict, list)):
        for word, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _out_of_reach(inner, (*key, word))
    elif isinstance(value, (int, float)) and not abs(value) <= 10**18:  # nor is NaN
        yield key, f"must be a number of at most 1e18 in size; got {value!r}"


def completed_arguments(room: str, name: str, arguments: dict) -> dict:
    """The arguments with the part's defaults filled in, as plain YAML values."""
    return _bound(room, name, arguments).model_dump(mode="json")


def chosen_arguments(room: str, name: str, arguments: dict) -> dict:
    """The arguments less those that are the part's defaults, as plain YAML values."""
    return _bound(room, name, arguments).model_dump(mode="json", exclude_defaults=True)


def build(room: str, name: str, arguments: dict, *given: object) -> object:
    """An instance of the part: `given` is what the runner passes, `arguments` what the recipe says."""
    typed = _bound(room, name, arguments)
    return find(room, name)(*given, **{key: getattr(typed, key) for key in type(typed).model_fields})


def schema_of(room: str, name: str) -> dict:
    """The arguments of a part as JSON schema: types, ranges, defaults."""
    return _arguments(room, name).model_json_schema()


def needs_teacher(loss: str) -> bool:
    """Whether a loss reads a second network: the `teacher` of its forward may not be None.

    Raises:
        ValueError: no hint says so.
    """
    hint = _hints("losses", loss, find("losses", loss).forward).get("teacher")
    if hint is None:
        raise ValueError(
            f"{path_of('losses', loss)}: its forward must have a `teacher: Prediction`, or `teacher: Prediction | None` "
            f"where it can do without another network"
        )
    return type(None) not in (hint, *typing.get_args(hint))


def detaches_source(loss: str) -> bool:
    """Whether a loss gives the network it reads no gradient, whatever a recipe says: its class says so."""
    return getattr(find("losses", loss), "detaches_source", False)


def needs_labels(loss: str) -> bool:
    """Whether a loss reads labels: its class says `label_free = True` where the labels only tell it what is ignored."""
    return not getattr(find("losses", loss), "label_free", False)


def has_labels(dataset: str) -> bool:
    """Whether the images of a data set have labels: its class says `has_labels = False` where they have none."""
    return dataset not in names("datasets") or getattr(find("datasets", dataset), "has_labels", True)


class _Anything(dict):
    """64 channels, or a stride of 64, of whatever feature is asked for."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> int:
        return 64


def features_read(loss: str) -> dict[str, set[str]] | None:
    """The features a loss asks its two networks for, with its defaults; None where that depends on the networks."""
    import torch  # whoever asks has imported the loss, and it with that

    from segkd.losses._task import Features, Task

    asked = {who: Features(f"the {who}", _Anything(), _Anything()) for who in ("student", "teacher")}
    try:
        with torch.device("meta"):
            build("losses", loss, {}, Task(19, 255, **asked))
    except (ValueError, KeyError, NotImplementedError, RuntimeError):
        return None
    return {who: features.wanted for who, features in asked.items()}


def network_part(source: str, model: str, arguments: dict) -> tuple[str, dict]:
    """(file in models/, arguments) of a network from elsewhere: a head of ours, or none, on timm's or transformers'
    encoder, or transformers' own segmentation network."""
    if source == "hf" and "head" not in arguments:
        return "huggingface", {"name": model, **arguments}
    if source in ("hf", "timm"):
        rest = {key: value for key, value in arguments.items() if key != "head"}
        head = arguments.get("head", "deeplabv3")
        return BARE if head is None else str(head), {"backbone": f"{source}/{model}", **rest}
    return model, arguments


def encoder_word(arguments: dict) -> str | None:
    """What tables call the encoder in a network's arguments: a name, or the kind of one that is a configuration."""
    backbone = arguments.get("backbone") or arguments.get("arch") or arguments.get("config")
    return backbone.get("model_type") if isinstance(backbone, dict) else backbone


def network_words(file: str, arguments: dict) -> str:
    """What tables call a network of a file in models/: `deeplabv3 resnet18`, `pidnet s`, `ddrnet width 32`.

    The width tells the size where neither an encoder nor a variant has a name for it; else it is that of a head.
    """
    width = arguments.get("width")
    size = encoder_word(arguments) or arguments.get("variant") or (width and f"width {width}")
    return f"{file} {size}" if size else file


def arguments_in_recipe(source: str, file: str, arguments: dict) -> dict:
    """The arguments of `network_part` as a recipe says them, which does not repeat what `source` and `model` say."""
    if source == "segkd":
        return arguments
    if source == "hf" and file == "huggingface":
        return {key: value for key, value in arguments.items() if key != "name"}
    head = None if file == BARE else file
    return {"head": head} | {key: value for key, value in arguments.items() if key != "backbone"}
