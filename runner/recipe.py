"""The recipe: every field there is, with its meaning and default. Reading one reports all its mistakes in one pass."""

import copy
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from segkd.runner import parts
from segkd.runner.mistakes import Mistake, RecipeError, did_you_mean, found_by, located
from segkd.runner.yaml_file import Key, override, read_file, write

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Section(pydantic.BaseModel):
    """A part of a recipe: a key that is none of its fields is a mistake, and so is a value of another type."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class OtherRecipe(Section):
    recipe: str = Field(description="path of another recipe, relative to this one; trained first if its run is not there")


class Data(Section):
    dataset: str = Field(description="file name in datasets/")
    root: str = Field("", description="folder the data set lies in (README, section on data sets)")
    args: dict = Field({}, description="the data set's own arguments")
    train_split: str = "train"
    val_split: str = "val"
    resize: tuple[PositiveInt, PositiveInt] | None = Field(None, description="height, width all images and labels are resized to before anything else")
    crop_size: tuple[PositiveInt, PositiveInt] = Field(description="height, width in pixels of a training crop")
    transform: dict = Field({}, description="arguments of datasets/_transforms.py:Transform: scale, flip, photometric, blur, padding")
    batch_size: PositiveInt = Field(16, description="images per optimizer step, TOTAL over all processes and accumulated parts")
    workers: NonNegativeInt = Field(2, description="loading processes per training process; 0 loads in the training process")


class Network(Section):
    model: str = Field(description="file name in models/")
    args: dict = Field({}, description="the network's own arguments")
    weights: str | OtherRecipe | None = Field(None, description="a .safetensors or .pth file, a run folder, or {recipe: path}")
    strict: bool = Field(True, description="false accepts weights that do not cover the whole network")
    train: bool = Field(True, description="false: frozen, in eval mode, kept out of the optimizer and the checkpoints")
    normalize: str = Field("imagenet", description="constants in models/_prediction.py: imagenet, cirkd, sam, unit, none")
    lr_scale: NonNegativeFloat = Field(1.0, description="factor on the learning rate of this network")


class Ramp(Section):
    start: float
    end: float
    over: tuple[NonNegativeInt, PositiveInt] = Field(description="first and last iteration of the linear change")
    hold: PositiveInt = Field(1, description="the weight changes every so many iterations (an epoch's worth, in AICSD)")


class Term(Section):
    loss: str = Field(description="file name in losses/")
    of: str = Field("student", description="the network this term trains")
    source: str | None = Field(None, alias="from", description="the network it learns from; default: the only other one")
    on: Literal["labelled"] = Field("labelled", description="which images the term sees")
    weight: float | Ramp = 1.0
    after: NonNegativeInt | None = Field(None, description="active from the iteration after this one (0-based)")
    until: NonNegativeInt | None = Field(None, description="active up to this iteration")
    detach: bool = Field(True, description="no gradient into the source")
    label: str | None = Field(None, description="name in the log; default: the loss's name")
    args: dict = Field({}, description="the loss's own arguments")


class Optimizer(Section):
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: PositiveFloat = 0.01
    momentum: NonNegativeFloat = Field(0.9, description="sgd only")
    nesterov: bool = False
    betas: tuple[float, float] = Field((0.9, 0.999), description="adam and adamw only")
    weight_decay: NonNegativeFloat = 1e-4
    head_lr_scale: PositiveFloat = Field(1.0, description="factor on the learning rate of everything outside `backbone`")
    no_decay: list[str] = Field([], description="parameters whose name contains one of these are not decayed; `norm` covers all normalisation layers and `bias` all biases")


class Schedule(Section):
    iterations: PositiveInt
    name: Literal["poly", "cosine", "constant", "step"] = "poly"
    power: PositiveFloat = Field(0.9, description="poly only")
    min_lr: NonNegativeFloat = Field(0.0, description="the rate poly and cosine end at")
    drop_every: PositiveInt | None = Field(None, description="step only: iterations between two drops")
    drop_factor: PositiveFloat = Field(0.1, description="step only: what the rate is multiplied by at a drop")
    lag: NonNegativeInt = Field(0, description="iterations the rate stays behind (1 in TriKD's released code)")
    warmup: NonNegativeInt = Field(0, description="iterations the rate rises over, from 0 at iteration 0")


class Loop(Section):
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: PositiveInt = Field(1, description="parts an optimizer step's batch is computed in, one after another")
    clip_norm: PositiveFloat | None = Field(None, description="largest gradient norm")
    channels_last: bool = Field(True, description="memory format of the networks; faster for convolutions on GPUs and CPUs alike")
    sync_batchnorm: bool | Literal["auto"] = Field("auto", description="auto: several GPUs with at most 8 images each")
    compile: bool = Field(False, description="torch.compile of the trained networks, for the fixed crop size")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="decay of a moving average of the student's weights; scored and saved in its place")
    save_every: PositiveInt | None = Field(None, description="iterations between checkpoints; default: evaluate.every")
    keep_last: PositiveInt = Field(2, description="checkpoints kept, besides the best")
    timeout: PositiveInt = Field(1800, description="seconds a process waits for the others")


class Evaluate(Section):
    every: PositiveInt = Field(1000, description="iterations between evaluations; the last iteration is always evaluated")
    mode: Literal["whole", "slide"] = "whole"
    window: tuple[PositiveInt, PositiveInt] | None = Field(None, description="slide only: height, width; default: crop_size")
    stride: tuple[PositiveInt, PositiveInt] | None = Field(None, description="slide only; default: 2/3 of the window")
    average: Literal["logits", "softmax"] = Field("logits", description="what windows, scales and flips are averaged in")
    scales: list[PositiveFloat] = Field([1.0], min_length=1, description="image sizes the scores are averaged over")
    flip: bool = Field(False, description="also average with the mirrored image")
    short_side: PositiveInt | None = Field(None, description="resize images and labels to this short side first (AICSD's protocol)")
    absent: Literal["skip", "zero"] = Field("skip", description="a class in neither labels nor predictions: left out of the mean, or 0 in it")
    batch_size: PositiveInt = 1


class Tracking(Section):
    wandb: Literal["auto", "online", "offline", "disabled"] = Field("auto", description="auto: online with an account configured, else offline")
    project: str = "segkd"
    group: str | None = None
    images: NonNegativeInt = Field(4, description="validation images shown at each evaluation")
    every: PositiveInt = Field(20, description="iterations between two writes of the log; every iteration is in it")
    gradients: PositiveInt | None = Field(200, description="iterations between looks at each term's gradient norm and its cosine to the cross entropy's; null: never")
    folder: str = Field("runs", description="the run folder is <folder>/<name>")


class Recipe(Section):
    name: Name
    seed: NonNegativeInt = 0
    data: Data
    networks: dict[Name, Network] = Field(min_length=1)
    losses: list[Term] = Field(min_length=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule
    loop: Loop = Loop()
    evaluate: Evaluate = Evaluate()
    tracking: Tracking = Tracking()
    baseline: OtherRecipe | None = Field(None, description="a run that stands beside this one in the closing table")

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.tracking.folder) / self.name

    def source_of(self, term: Term) -> str | None:
        """Network a term learns from: its `from`, or the only other network, or None."""
        others = [name for name in self.networks if name != term.of]
        return term.source or (others[0] if len(others) == 1 else None)

    def dump(self) -> str:
        """The recipe as YAML to stand in its run folder, every default written out."""
        values = self.model_dump(mode="json", by_alias=True)
        others = [network["weights"] for network in values["networks"].values()] + [values["baseline"]]
        for other in others:
            if isinstance(other, dict):
                other["recipe"] = os.path.relpath(other["recipe"], self.folder)
        return write(values)


def read(path: str | Path, assignments: Iterable[str] = ()) -> Recipe:
    """Reads, merges, overrides and checks a recipe. RecipeError lists every mistake with its line and what is allowed."""
    values, origins = read_file(path)
    override(values, origins, list(assignments))
    recipe, mistakes = _validated(values)
    mistakes += _wrong_parts(values)
    if recipe is None:  # what is left without the mistakes may show more of them
        recipe, _ = _validated(_without(values, [key for key, _ in mistakes]))
    if recipe is not None:
        mistakes += _wrong_relations(recipe)
    if mistakes:
        raise RecipeError(located(mistakes, origins, str(path)))
    return _completed(recipe, Path(path).parent)


def _validated(values: dict) -> tuple[Recipe | None, list[Mistake]]:
    try:
        return Recipe.model_validate_json(json.dumps(values)), []
    except pydantic.ValidationError as error:
        return None, found_by(error, Recipe)


def _without(values: dict, keys: list[Key]) -> dict:
    """The values less what stands at the keys."""
    values = copy.deepcopy(values)
    for *outer, last in keys:
        place: object = values
        for word in outer:
            place = place.get(word) if isinstance(place, dict) else place[word] if isinstance(place, list) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return values


def _parts_of(values: dict) -> Iterator[tuple[Key, Key, str, object, object]]:
    """(path of the name, path of its arguments, room, name, arguments) of every part a recipe names, however broken it is."""
    data = values.get("data")
    if isinstance(data, dict):
        yield ("data", "dataset"), ("data", "args"), "datasets", data.get("dataset"), data.get("args", {})
        yield ("data",), ("data", "transform"), "datasets", "_transforms", data.get("transform", {})
    networks, losses = values.get("networks"), values.get("losses")
    for name, network in networks.items() if isinstance(networks, dict) else ():
        if isinstance(network, dict):
            here = ("networks", name)
            yield (*here, "model"), (*here, "args"), "models", network.get("model"), network.get("args", {})
    for index, term in enumerate(losses if isinstance(losses, list) else ()):
        if isinstance(term, dict):
            here = ("losses", index)
            yield (*here, "loss"), (*here, "args"), "losses", term.get("loss"), term.get("args", {})


def _wrong_parts(values: dict) -> list[Mistake]:
    """Unknown names of parts, and arguments that do not fit their signatures."""
    mistakes: list[Mistake] = []
    for name_key, arguments_key, room, name, arguments in _parts_of(values):
        if not isinstance(name, str) or not isinstance(arguments, dict):
            continue  # the schema has said so already
        if name != "_transforms" and name not in parts.names(room):
            there = parts.names(room)
            mistakes.append((name_key, f"no {room}/{name}.py{did_you_mean(name, there)}; there are: {', '.join(there)}"))
            continue
        mistakes += [((*arguments_key, *key), text) for key, text in parts.wrong_arguments(room, name, arguments)]
    return mistakes


def _wrong_relations(recipe: Recipe) -> list[Mistake]:
    """Names that do not refer to anything, and sections that contradict each other."""
    mistakes: list[Mistake] = []
    networks = ", ".join(recipe.networks)
    if "student" not in recipe.networks:
        mistakes.append((("networks",), f"one network must be called student; there are: {networks}"))
    labels: set[str] = set()
    for index, term in enumerate(recipe.losses):
        here: Key = ("losses", index)
        for key, name in (("of", term.of), ("from", term.source)):
            if name is not None and name not in recipe.networks:
                mistakes.append(((*here, key), f"there is no network {name!r}{did_you_mean(name, list(recipe.networks))}; "
                                               f"there are: {networks}"))
        if term.of in recipe.networks and not recipe.networks[term.of].train:
            mistakes.append(((*here, "of"), f"{term.of} is frozen (train: false), so no loss can train it"))
        if isinstance(term.weight, Ramp) and term.weight.over[0] >= term.weight.over[1]:
            mistakes.append(((*here, "weight", "over"), f"the last iteration must come after the first; got {list(term.weight.over)}"))
        if term.source == term.of:
            mistakes.append(((*here, "from"), f"{term.of} cannot learn from itself"))
        if term.loss in parts.names("losses") and parts.needs_teacher(term.loss) and recipe.source_of(term) is None:
            mistakes.append((here, f"{term.loss} learns from another network; name it with from: (there are: {networks})"))
        if (term.label or term.loss) in labels:
            mistakes.append((here, f"two terms are called {term.label or term.loss!r} in the log; give one a label:"))
        labels.add(term.label or term.loss)
    if recipe.schedule.name == "step" and recipe.schedule.drop_every is None:
        mistakes.append((("schedule", "drop_every"), "is missing; name: step needs the iterations between two drops"))
    if recipe.data.batch_size % recipe.loop.accumulate:
        mistakes.append((("loop", "accumulate"), f"{recipe.loop.accumulate} parts do not divide data.batch_size, "
                                                 f"which is {recipe.data.batch_size} in total"))
    return mistakes


def _completed(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the parts' own defaults written out and the paths of other recipes relative to here."""
    def other(value):
        return OtherRecipe(recipe=os.path.relpath(folder / value.recipe)) if isinstance(value, OtherRecipe) else value

    data = recipe.data.model_copy(update={
        "args": parts.completed_arguments("datasets", recipe.data.dataset, recipe.data.args),
        "transform": parts.completed_arguments("datasets", "_transforms", recipe.data.transform)})
    networks = {name: network.model_copy(update={
        "args": parts.completed_arguments("models", network.model, network.args),
        "weights": other(network.weights)}) for name, network in recipe.networks.items()}
    losses = [term.model_copy(update={
        "args": parts.completed_arguments("losses", term.loss, term.args),
        "source": recipe.source_of(term) if parts.needs_teacher(term.loss) else term.source,
        "label": term.label or term.loss}) for term in recipe.losses]
    return recipe.model_copy(update={
        "data": data, "networks": networks, "losses": losses, "baseline": other(recipe.baseline)})
