"""The recipe: every field there is, with its meaning and default."""

import os
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from segkd.runner.recipe.yaml_file import write

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Section(pydantic.BaseModel):
    """A part of a recipe: a key that is none of its fields is a mistake, and so is a value of another type."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class OtherRecipe(Section):
    recipe: str = Field(
        description="path of another recipe, relative to this one; trained first if its run is not there"
    )


class Unlabelled(Section):
    images: str | None = Field(
        None, description="folder of images, at any depth; default: the training images data.labelled leaves out"
    )
    batch_size: PositiveInt | None = Field(
        None, description="images per optimizer step, TOTAL as data.batch_size, which is the default"
    )
    transform: dict | None = Field(None, description="as data.transform, which is the default")
    strong: dict | None = Field(
        None, description="arguments of datasets/_strong.py:StrongView, {} for its own; for terms with on: strong"
    )


class Data(Section):
    dataset: str = Field(description="file name in datasets/")
    root: str = Field("", description="folder the data set lies in (README, section on data sets)")
    args: dict = Field({}, description="the data set's own arguments")
    train_split: str = "train"
    val_split: str = "val"
    resize: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="height, width all images and labels are resized to before anything else"
    )
    crop_size: tuple[PositiveInt, PositiveInt] = Field(description="height, width in pixels of a training crop")
    transform: dict = Field(
        {}, description="arguments of datasets/_transforms.py:Transform: scale, flip, photometric, blur, padding"
    )
    batch_size: PositiveInt = Field(
        16, description="images per optimizer step, TOTAL over all processes and accumulated parts"
    )
    mix: dict | None = Field(
        None, description="arguments of datasets/_mixing.py:Mix: two labelled images of a batch made into one"
    )
    labelled: str | None = Field(
        None,
        description="which training images have labels: a fraction such as 1/8 (drawn with the seed), a list in "
        "datasets/splits/, or a file of image names; default: all",
    )
    unlabelled: Unlabelled | None = Field(None, description="a second stream, of images without labels")
    workers: NonNegativeInt = Field(
        2, description="loading processes per training process; 0 loads in the training process"
    )


class Optimizer(Section):
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: PositiveFloat = 0.01
    momentum: NonNegativeFloat = Field(0.9, description="sgd only")
    nesterov: bool = False
    betas: tuple[float, float] = Field((0.9, 0.999), description="adam and adamw only")
    weight_decay: NonNegativeFloat = 1e-4
    head_lr_scale: PositiveFloat = Field(
        1.0, description="factor on the learning rate of everything outside `backbone`"
    )
    no_decay: list[str] = Field(
        [],
        description="words in the names of parameters that are not decayed; `norm` means all normalisation layers",
    )


class Curve(Section):
    name: Literal["poly", "cosine", "constant", "step"] = "poly"
    power: PositiveFloat = Field(0.9, description="poly only")
    min_lr: NonNegativeFloat = Field(0.0, description="the rate poly and cosine end at")
    drop_every: PositiveInt | None = Field(None, description="step only: iterations between two drops")
    drop_factor: PositiveFloat = Field(0.1, description="step only: what the rate is multiplied by at a drop")
    lag: NonNegativeInt = Field(0, description="iterations the rate stays behind (1 in TriKD's released code)")
    warmup: NonNegativeInt = Field(0, description="iterations the rate rises over, from 0 at iteration 0")
    end: PositiveInt | None = Field(None, description="iteration poly and cosine end at; default: the last one")


class Schedule(Curve):
    iterations: PositiveInt


class Network(Section):
    source: Literal["segkd", "hf", "timm"] = Field(
        "segkd", description="whose network: ours, one of Hugging Face's, or a head of ours on any encoder of timm's"
    )
    model: str | None = Field(
        None,
        description="file name in models/; with hf a hub id or a local folder; with timm the encoder's name there, "
        "under the head args.head names (deeplabv3)",
    )
    args: dict = Field({}, description="the network's own arguments")
    weights: str | OtherRecipe | None = Field(
        None, description="a .safetensors or .pth file, a run folder, or {recipe: path}"
    )
    layout: str | None = Field(
        None, description="whose names the weights file uses, a file in models/_layouts/; default: told by its keys"
    )
    part: str | None = Field(
        None, description="which network of a file that holds several: student, teacher, tiny, cnn, vit"
    )
    strict: bool = Field(True, description="false accepts weights that do not cover the whole network")
    train: bool | Literal["lora"] = Field(
        True,
        description="false: frozen, in eval mode, kept out of the optimizer and the checkpoints; lora: only low-rank "
        "additions to the encoder (args.lora_rank, 4) and the head",
    )
    class_map: Literal["names"] | dict[str, str] | None = Field(
        None,
        description="for a network with classes of its own: {its class: the data set's}, or names where they are equal",
    )
    prompted_by: str | None = Field(None, description="the network whose predicted classes this one gets as a prompt")
    normalize: str | None = Field(
        None, description="constants in models/_prediction.py: imagenet, cirkd, sam, unit, none; default: its own"
    )
    lr_scale: NonNegativeFloat = Field(1.0, description="factor on the learning rate of this network")
    checkpointing: bool = Field(False, description="compute its blocks again in backward, which takes less memory")
    optimizer: Optimizer | None = Field(None, description="its own, in place of the recipe's")
    schedule: Curve | None = Field(None, description="the curve of its learning rate, in place of the recipe's")
    ema_of: str | None = Field(
        None, description="in place of a model: the moving average of this trained network, frozen otherwise"
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = Field(0.99, description="with ema_of")


class Ramp(Section):
    start: float
    end: float
    over: tuple[NonNegativeInt, PositiveInt] = Field(description="first and last iteration of the linear change")
    hold: PositiveInt = Field(1, description="the weight changes every so many iterations (an epoch's worth, in AICSD)")


class Term(Section):
    loss: str = Field(description="file name in losses/")
    of: str = Field("student", description="the network this term trains")
    source: str | None = Field(
        None, alias="from", description="the network it learns from; default: the only other one"
    )
    on: Literal["labelled", "unlabelled", "both", "strong"] = Field(
        "labelled",
        description="which images the term sees; strong: `of` sees strong views of unlabelled ones, `from` weak views",
    )
    weight: float | Ramp = 1.0
    after: NonNegativeInt | None = Field(None, description="active from the iteration after this one (0-based)")
    until: NonNegativeInt | None = Field(None, description="active up to this iteration")
    detach: bool = Field(True, description="no gradient into the source")
    label: str | None = Field(None, description="name in the log; default: the loss's name")
    args: dict = Field({}, description="the loss's own arguments")


class Loop(Section):
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: PositiveInt = Field(1, description="parts an optimizer step's batch is computed in, one after another")
    clip_norm: PositiveFloat | None = Field(None, description="largest gradient norm")
    channels_last: bool = Field(
        True, description="memory format of the networks; faster for convolutions on GPUs and CPUs alike"
    )
    sync_batchnorm: bool | Literal["auto"] = Field("auto", description="auto: several GPUs with at most 8 images each")
    compile: bool = Field(False, description="torch.compile of the trained networks, for the fixed crop size")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of a moving average of the student's weights; scored and saved in its place"
    )
    save_every: PositiveInt | None = Field(None, description="iterations between checkpoints; default: evaluate.every")
    keep_last: PositiveInt = Field(2, description="checkpoints kept, besides the best")
    timeout: PositiveInt = Field(1800, description="seconds a process waits for the others")


class Evaluate(Section):
    every: PositiveInt = Field(1000, description="iterations between evaluations; the last one is always evaluated")
    protocol: Literal["cirkd", "dist", "mmseg", "aicsd", "trikd", "tsic"] | None = Field(
        None, description="whose way of scoring; it fixes most of the fields below, see runner/recipe/protocols.py"
    )
    mode: Literal["whole", "slide", "halves"] = Field("whole", description="halves: left and right, put together")
    window: tuple[PositiveInt, PositiveInt] | None = Field(None, description="slide: height, width; default: crop_size")
    stride: tuple[PositiveInt, PositiveInt] | None = Field(None, description="slide only; default: 2/3 of the window")
    smaller: Literal["pad", "shrink"] = Field(
        "pad", description="slide: an image smaller than the window is padded, or the window is shrunk to it"
    )
    average: Literal["logits", "softmax"] = Field("logits", description="what windows and views are averaged in")
    scales: list[PositiveFloat] = Field([1.0], min_length=1, description="image sizes the scores are averaged over")
    flip: bool = Field(False, description="also average with the mirrored image")
    fit: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="height, width images just fit into, whichever way round they lie; labels keep their size"
    )
    short_side: PositiveInt | None = Field(None, description="short side that images and labels are resized to first")
    resizes: Literal[1, 2] = Field(1, description="2: scores of whole images go to the image's size, then the label's")
    align_corners: bool | None = Field(None, description="how scores are resized; default: the network family's way")
    absent: Literal["skip", "zero"] = Field(
        "skip", description="a class in neither labels nor predictions: left out of the mean, or 0 in it"
    )
    batch_size: PositiveInt = 1
    also: list[str] = Field(
        [],
        description="what is scored beside the student at each evaluation: a trained network, or the mean of several "
        "networks' probabilities, as in student+teacher",
    )


class Tracking(Section):
    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online with an account configured, else offline"
    )
    project: str = "segkd"
    group: str | None = None
    images: NonNegativeInt = Field(4, description="validation images shown at each evaluation")
    every: PositiveInt = Field(20, description="iterations between two writes of the log; every iteration is in it")
    gradients: PositiveInt | None = Field(
        200,
        description="iterations between looks at each term's gradient: its norm and its cosine to the cross entropy's",
    )
    folder: str = Field("runs", description="the run folder is <folder>/<name>")


class Recipe(Section):
    name: Name
    method: str | None = Field(
        None, description="what tables call the experiment; default: the losses with a source, joined by +, or none"
    )
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
    # not a field: no recipe can set it, only the command line
    _trust_checkpoint: bool = pydantic.PrivateAttr(False)

    @property
    def trust_checkpoint(self) -> bool:
        """Whether weights files that could start code are read, by the user's own hand."""
        return self._trust_checkpoint

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.tracking.folder) / self.name

    @property
    def method_name(self) -> str:
        """What tables call the experiment: `method`, else its losses that learn from another network, or `none`."""
        learnt = dict.fromkeys(term.loss for term in self.losses if term.source is not None)
        return self.method or " + ".join(learnt) or "none"

    def source_of(self, term: Term) -> str | None:
        """Network a term learns from: its `from`, or the only other network, or None."""
        others = [name for name in self.networks if name != term.of]
        return term.source or (others[0] if len(others) == 1 else None)

    def dump(self) -> str:
        """The recipe as YAML to stand in its run folder, every default written out."""
        values = self.model_dump(mode="json", by_alias=True)
        others = [network["weights"] for network in values["networks"].values()] + [values["baseline"]]
        for other in others:
            if isinstance(other, dict) and "://" not in other["recipe"]:
                other["recipe"] = os.path.relpath(other["recipe"], self.folder)
        return write(values)
