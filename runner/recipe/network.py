"""The section of a recipe on one network."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from annotated_types import Interval
from pydantic import Field

from segkd.runner.recipe import parts
from segkd.runner.recipe.cache import Cache
from segkd.runner.recipe.hub import place_of
from segkd.runner.recipe.mistakes import Mistake, did_you_mean
from segkd.runner.recipe.optimization import Curve, Optimizer
from segkd.runner.recipe.section import Constants, OtherRecipe, Section
from segkd.runner.recipe.shipped import near
from segkd.runner.recipe.student_folder import described, run_of_checkpoint
from segkd.runner.recipe.told_by_weights import exported, folder_of_transformers, is_of_smp, unreadable

if TYPE_CHECKING:
    from segkd.runner.recipe.schema import Recipe

RANDOM = "random"  # the word for weights that come from nowhere


class Network(Section):
    source: Literal["segkd", "hf", "timm"] = Field(
        "segkd", description="whose network: ours, Hugging Face's (hf) with its own head or with ours, or timm's"
    )
    model: str | None = Field(
        None,
        description="file name in models/; with hf a hub id or a local folder; with timm the encoder's name there. "
        "args.head names a head of ours on the encoder (with timm deeplabv3), null gives its features alone; may be "
        "left out where weights tell it, as those of a run do",
    )
    args: dict = Field({}, description="the network's own arguments; those that its weights tell may be left out")
    weights: str | OtherRecipe | None = Field(
        None,
        description="a file, a run folder, hf://user/repo[@revision][/path], {recipe: path}, or random, which a frozen "
        "network without weights must say",
    )
    layout: str | None = Field(None, description="whose names weights use (models/_checkpoints.py); default: guessed")
    part: str | None = Field(
        None,
        description="which of several in a file of weights: a network (student, teacher, tiny, cnn, vit), or the key a "
        "set of weights lies under, such as model_ema",
    )
    strict: bool = Field(True, description="false accepts weights that do not cover the whole network")
    train: bool | Literal["lora", "head"] = Field(
        True,
        description="false: frozen, in eval mode, kept out of the optimizer and the checkpoints; lora: only low-rank "
        "additions to the encoder (args.lora_rank, 4) and the head; head: all but the encoder, which stays in eval mode",
    )
    class_map: Literal["names"] | dict[str, str] | None = Field(
        None,
        description="for a network with classes of its own: {its class: the data set's}, or names where they are equal",
    )
    prompted_by: str | None = Field(None, description="the network whose predicted classes this one gets as a prompt")
    normalize: Literal["imagenet", "cirkd", "sam", "unit", "none"] | Constants | None = Field(
        None, description="its constants, by a published name or {mean, std, order}; default: those of its weights"
    )
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="of a frozen network, whose maps the losses then read in float32; default: loop.precision"
    )
    compile: bool = Field(False, description="torch.compile of a frozen network, for the fixed crop size")
    input_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="factor on the size of a frozen network's images; its scores and features come out smaller"
    )
    lr_scale: Annotated[float, Interval(ge=0, le=1e6)] = Field(
        1.0, description="factor on the learning rate of this network"
    )
    checkpointing: bool = Field(False, description="compute its blocks again in backward, which takes less memory")
    int8: bool = Field(
        False, description="train it as it will compute in INT8: weights and inputs of its layers rounded to 8 bits"
    )
    optimizer: Optimizer | None = Field(None, description="its own, in place of the recipe's")
    schedule: Curve | None = Field(None, description="the curve of its learning rate, in place of the recipe's")
    ema_of: str | None = Field(None, description="in place of a model: the moving average of this trained network")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = Field(0.99, description="with ema_of")
    cache: Cache | None = Field(
        None, description="keep on the disk what terms read of it, on views that come again ({} for the defaults)"
    )

    @pydantic.field_validator("args")
    @classmethod
    def _of_a_model(cls, args: dict, said: pydantic.ValidationInfo) -> dict:
        return args if said.data.get("model") else {}  # a moving average has those of its network

    @property
    def constants(self) -> str | dict | None:
        """`normalize` as models/_prediction.py:Normalize.of takes it."""
        return self.normalize.model_dump(mode="json") if isinstance(self.normalize, Constants) else self.normalize

    @property
    def has_start(self) -> bool:
        """Whether any of its weights come from a file, a download or another network."""
        if self.ema_of is not None or self.weights not in (None, RANDOM):
            return True
        file, arguments = parts.network_part(self.source, self.model, self.args)
        if file == "huggingface":
            return bool(arguments.get("name")) and arguments.get("pretrained") is not False
        return bool(arguments.get("pretrained") or arguments.get("backbone_weights"))

    @property
    def has_head(self) -> bool:
        """Whether it has scores, and not features alone."""
        file, arguments = parts.network_part(self.source, self.model, self.args)
        return file != parts.BARE and arguments.get("head", "its own") is not None

    @property
    def weights_words(self) -> str:
        """What messages call its weights: their path, or that of the recipe that makes them."""
        return self.weights.recipe if isinstance(self.weights, OtherRecipe) else str(self.weights)

    @property
    def continues(self) -> str | None:
        """The name of the recipe or of the run that it goes on from; None where it starts from no training of ours."""
        if isinstance(self.weights, OtherRecipe):
            return Path(self.weights.recipe).stem
        if self.weights in (None, RANDOM):
            return None
        try:
            place = place_of(self.weights)  # or checkpoints/last of a run
            config = described(place) or exported(place)
        except (ValueError, FileNotFoundError):
            return None  # who loads it tells
        run = run_of_checkpoint(place)  # which is called as its recipe
        return config.get("recipe", run.name if run else place.stem) if config else None

    @property
    def cheaper_by(self) -> list[str]:
        """What makes the forward of a frozen network cheaper, in words."""
        sized = f"images of {self.input_scale:g} of their size" if self.input_scale != 1 else None
        return list(filter(None, [self.precision, "compiled" if self.compile else None, sized]))

    @property
    def title(self) -> str:
        """What tables call the network: `deeplabv3 resnet18`, `pidnet s`, `average of student`."""
        if self.ema_of is not None:
            return f"average of {self.ema_of}"
        file, arguments = parts.network_part(self.source, self.model, self.args)
        if file == "huggingface" and arguments.get("name"):
            return arguments["name"]
        return parts.network_words(file, arguments)

    def _untold(self) -> str:
        """What is said where nothing names the network, not even its weights."""
        if not isinstance(self.weights, str):
            return f"{self.weights_words} tells no network (is not there yet); name its model: and args:"
        try:
            place = place_of(self.weights)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        if not place.exists():
            text = f"there is no {place}{near(place)}; name a file or a run folder or, where it is made before this"
            return f"{text} training, its network's model: and args:, too"
        if (place / "recipe.yaml").is_file():
            return f"{place} tells no network (its run has not finished); name its model: and args:"
        other = folder_of_transformers(place)
        if other is not None:
            return f"{place} is a network of transformers; in place of weights write source: hf and model: {other}"
        if is_of_smp(place, self.part):
            text = "is of segmentation_models_pytorch, whose decoders are not here; its encoder can start a network of ours"
            return f"{place} {text}: model: and args.backbone_weights"
        known = f"one of {', '.join(parts.names('models'))}, or with a source:"
        unknown = f"{place} tells no network (is of none that is known); name its model: ({known}) and args:"
        reason = unreadable(place, self.part)
        more = "; whether or not it is given, name the network's model: and args:, which such a file is not asked for"
        return reason + more * ("--trust-checkpoint" in reason) or unknown

    def wrong(self, name: str, recipe: "Recipe") -> Iterator[Mistake]:
        """What this network, called `name`, asks of others that they cannot give, or says twice."""
        if self.model is None and self.ema_of is None and self.weights not in (None, RANDOM):
            yield ("weights",), self._untold()
        elif (self.model is None) == (self.ema_of is None):
            hint = "; args.config goes with model: huggingface and no source" if self.source == "hf" else ""
            yield (), f"must name either a model: or the network it is the moving average of, ema_of:{hint}"
        elif not self.train and not self.has_start and self.weights != RANDOM:
            text = (
                "is frozen and nothing gives it weights, so what it teaches is noise; name them (a file, a run folder, "
            )
            yield (), f"{text}{{recipe: path}}, args.pretrained: true), or write weights: random if that is meant"
        others = [known for known in recipe.networks if known != name]
        for key, other in (("prompted_by", self.prompted_by), ("ema_of", self.ema_of)):
            if other is not None and other not in others:
                hint = did_you_mean(other, others)
                yield (key,), f"there is no other network {other!r}{hint}; there are: {', '.join(others)}"
        if self.ema_of in recipe.networks and not recipe.networks[self.ema_of].train:
            yield ("ema_of",), f"{self.ema_of} is frozen (train: false), so its average never moves"
        if self.ema_of is not None and self.train:
            yield ("train",), "a moving average is not trained by losses; write train: false"
        if name == "student" and self.ema_of is not None:
            text = f"the student is what is trained and delivered; name {self.ema_of} student, and its average loop.ema"
            yield ("ema_of",), text
        if self.prompted_by in recipe.networks and recipe.networks[self.prompted_by].prompted_by is not None:
            yield ("prompted_by",), f"{self.prompted_by} is prompted itself; prompts go one step only"
        if name == "student" and self.class_map is not None:
            text = "the student is delivered with the data set's own classes; a class map is for who it learns from"
            yield ("class_map",), text
        if self.checkpointing and not self.train:
            yield ("checkpointing",), f"{name} is not trained, so it keeps nothing for backward; leave it out"
        if self.checkpointing and recipe.loop.compile:
            yield ("checkpointing",), "does not go with loop.compile; leave one of them out"
        if self.int8 and self.train == "head":
            yield (
                ("int8",),
                f"{name}'s encoder is frozen, and what a frozen layer reads is not observed; write train: true",
            )
        if self.int8 and self.train == "lora":
            yield ("int8",), "low-rank additions are not rounded; write train: true, or leave it out"
        if self.int8 and not self.train:
            yield ("int8",), f"{name} is not trained; a network that was trained so is computed so"
        asked = {"precision": self.precision, "compile": self.compile, "input_scale": self.input_scale != 1}
        for key in [key for key, asks in asked.items() if asks]:
            if self.ema_of is not None:
                yield (key,), f"a moving average is computed as {self.ema_of} is; leave it out"
            elif self.train:
                hint = "leave it out" if key == "input_scale" else f"loop.{key} is for those that are trained"
                yield (key,), f"{name} is trained, and this is for frozen networks (train: false); {hint}"
        if self.ema_of is not None:
            for key in ("normalize", "class_map", "lr_scale", "optimizer", "schedule"):
                if getattr(self, key) != type(self).model_fields[key].default:  # a run's own recipe writes all out
                    yield (key,), f"a moving average has that of {self.ema_of}; leave it out"
        if self.input_scale != 1 and self.prompted_by is not None:
            yield ("input_scale",), "a prompt has the size of the images; leave input_scale or prompted_by out"
        if self.train == "lora" and self.model != "sam":
            yield ("train",), "lora is for model: sam; other networks are trained whole (true) or frozen (false)"
        if self.train == "head" and self.model is not None:
            if not self.has_head:
                yield ("train",), f"{name} has no head; train it whole (true) or not at all (false)"
            elif not self.has_start and self.weights != RANDOM:
                told = "its encoder is frozen and nothing gives it weights"
                yield ("train",), f"{told}; name them, or write weights: random if that is meant"
        if self.cache is not None:
            yield from ((("cache", *key), text) for key, text in self.cache.wrong(name, recipe))
        for section in ("schedule", "optimizer"):
            if getattr(self, section) is not None:
                yield from (((section, *key), text) for key, text in getattr(self, section).wrong())
        if self.class_map is not None and self.model is not None and not self.has_head:
            yield ("class_map",), f"{name} has no head, so there are no classes to map; leave it out"
        if self.ema_of is None and self.train and not any(term.trains(name) for term in recipe.losses):
            yield (), f"no term trains it; write train: false to use it as it is, or give it a term with of: {name}"
