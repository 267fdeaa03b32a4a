"""The recipe: every field there is, with its meaning, default and range, and what must go together."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from annotated_types import Interval
from pydantic import Field

from segkd.runner.recipe import parts
from segkd.runner.recipe.cache import Cache
from segkd.runner.recipe.extra import Extra
from segkd.runner.recipe.mistakes import Key, Mistake
from segkd.runner.recipe.network import Network
from segkd.runner.recipe.optimization import Curve, Optimizer, Schedule
from segkd.runner.recipe.ranges import SCALES
from segkd.runner.recipe.section import Factor, Images, Iterations, Name, OtherRecipe, Part, Section, Seed, Side
from segkd.runner.recipe.term import Term
from segkd.runner.recipe.yaml_file import write


class Unlabelled(Section):
    images: str | None = Field(None, description="folder, at any depth; default: what data.labelled leaves out")
    shards: str | None = Field(
        None,
        description="tar files of images in their place, as WebDataset packs them: `train-{000000..000099}.tar`, or with "
        "* and ?; data.cache keeps none of their pixels, and they are not compared with the images to score",
    )
    shuffle: Annotated[int, Interval(ge=1, le=10**6)] = Field(
        4096, description="shards: so many images that follow one another in them are shuffled with each other"
    )
    batch_size: Images | None = Field(None, description="TOTAL as data.batch_size, which is the default")
    transform: dict | None = Field(None, description="as data.transform, which is the default")
    strong: dict | None = Field(None, description="StrongView's arguments (datasets/_strong.py), {} for its own")


class Data(Section):
    dataset: str = Field(description="file name in datasets/")
    root: str = Field("", description="folder the data set lies in (README, section on data sets)")
    args: dict = Field({}, description="the data set's own arguments")
    train_split: str = "train"
    val_split: str = "val"
    test_split: str | None = Field(
        None, description="a further split that the delivered student is scored on, once, at the end of a run"
    )
    resize: tuple[Side, Side] | None = Field(None, description="height, width images are first brought to")
    crop_size: tuple[Side, Side] = Field(description="height, width in pixels of a training crop")
    transform: dict = Field({}, description="arguments of datasets/_transforms.py:Transform")
    batch_size: Images = Field(16, description="images a step, TOTAL over all processes and accumulated parts")
    mix: dict | None = Field(None, description="of datasets/_mixing.py:Mix: two labelled images made into one")
    labelled: str | None = Field(
        None,
        description="which training images have labels: a fraction such as 1/8 (drawn with the seed), a list in "
        "datasets/splits/, or a file of image names; default: all",
    )
    unlabelled: Unlabelled | None = Field(None, description="a second stream, of images without labels")
    extra: Extra | None = Field(
        None, description="images whose labels come from elsewhere, mixed with the labelled ones"
    )
    tuning_part: Part | None = Field(
        None,
        description="labelled training images that are not trained on and scored in place of val_split, to choose "
        "settings by: a share of them (the same whatever the seed), or those of a list, as `labelled` takes one",
    )
    allow_overlap: bool = Field(False, description="score images that are trained on, too; default: an error")
    max_pixels: Annotated[int, Interval(ge=1, le=10**12)] = Field(
        180_000_000, description="height times width of the largest image that is read"
    )
    cache: Literal["ram", "disk"] | None = Field(
        None, description="where decoded images and labels are kept for all epochs and runs; ram: while a run uses them"
    )
    cache_folder: str | None = Field(None, description="of cache: disk; default: <tracking.folder>/pixel_cache")
    workers: Annotated[int, Interval(ge=0, le=256)] = Field(
        2, description="loading processes per training process; 0: that one loads"
    )

    @property
    def batch_sizes(self) -> list[int]:
        """Images a step of each stream, those of `data` first; of a recipe that has been read."""
        return [self.batch_size] if self.unlabelled is None else [self.batch_size, self.unlabelled.batch_size]

    @property
    def scored(self) -> str:
        """What is scored, in words."""
        return self.val_split if self.tuning_part is None else f"{self.tuning_part} of {self.train_split}"


class Loop(Section):
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: Images = Field(1, description="parts an optimizer step's batch is computed in, one after another")
    clip_norm: Factor | None = Field(None, description="largest gradient norm")
    channels_last: bool = Field(True, description="memory format of the networks; faster for convolutions")
    sync_batchnorm: bool | Literal["auto"] = Field(
        "auto", description="auto: several GPUs with at most 8 images each; none on CPUs"
    )
    compile: bool = Field(False, description="torch.compile of the trained networks, for the fixed crop size")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of a moving average of the student's weights, scored and saved in its place"
    )
    save_every: Iterations | None = Field(None, description="iterations between checkpoints; default: evaluate.every")
    keep_last: Iterations = Field(2, description="checkpoints kept, besides the best")
    timeout: Annotated[int, Interval(ge=1, le=10**7)] = Field(
        1800, description="seconds a process waits for the others, or for its images"
    )


class Evaluate(Section):
    every: Iterations = Field(1000, description="iterations between evaluations; the last one is always evaluated")
    patience: Iterations | None = Field(
        None, description="end the training when so many evaluations in a row have brought no gain"
    )
    protocol: Literal["cirkd", "dist", "mmseg", "aicsd", "trikd", "tsic"] | None = Field(
        None, description="whose way of scoring; it fixes most of the fields below, see runner/recipe/protocols.py"
    )
    mode: Literal["whole", "slide", "halves"] = Field("whole", description="halves: left and right, put together")
    window: tuple[Side, Side] | None = Field(None, description="slide: height, width; default: crop_size")
    stride: tuple[Side, Side] | None = Field(None, description="slide only; default: 2/3 of the window")
    smaller: Literal["pad", "shrink"] = Field("pad", description="slide: pad images below the window, or shrink that")
    average: Literal["logits", "softmax"] = Field("logits", description="what windows and views are averaged in")
    scales: list[Annotated[float, SCALES]] = Field(
        [1.0], min_length=1, description="image sizes the scores are averaged over"
    )
    flip: bool = Field(False, description="also average with the mirrored image")
    fit: tuple[Side, Side] | None = Field(
        None, description="height, width images just fit into, whichever way round they lie; labels keep their size"
    )
    fit_corners: bool = Field(False, description="fit: corners aligned, unrounded; default: as OpenCV resizes")
    short_side: Side | None = Field(None, description="short side that images and labels are resized to first")
    resizes: Literal[1, 2] = Field(1, description="2: scores of whole images go to the image's size, then the label's")
    align_corners: bool | None = Field(None, description="how scores are resized; default: the network family's way")
    absent: Literal["skip", "zero"] = Field("skip", description="what a class in no label and no prediction counts")
    metrics: dict[str, dict] = Field(
        {},
        description="further scores, files in runner/scoring/metrics/: a list of names, or a mapping of names to their "
        "arguments, as in {boundary: {width: 5}}",
    )
    batch_size: Images = 1
    also: list[str] = Field(
        [],
        description="what is scored beside the student at each evaluation: a trained network, or the mean of several "
        "networks' probabilities, as in student+teacher",
    )

    @pydantic.field_validator("metrics")
    @classmethod
    def _further(cls, metrics: dict[str, dict]) -> dict[str, dict]:
        return {name: arguments for name, arguments in metrics.items() if name != "confusion"}  # always computed


class Tracking(Section):
    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online with an account configured, else offline"
    )
    project: str = "segkd"
    group: str | None = None
    images: Annotated[int, Interval(ge=0, le=10**4)] = Field(
        4, description="validation images shown at each evaluation"
    )
    every: Iterations = Field(20, description="iterations between two writes of the log; every iteration is in it")
    gradients: Iterations | None = Field(
        200,
        description="iterations between looks at each term's gradient: its norm and its cosine to the cross entropy's",
    )
    folder: str = Field("runs", description="the run folder is <folder>/<name>")


class Recipe(Section):
    name: Name
    method: str | None = Field(None, description="what tables call the experiment; default: losses with a source")
    seed: Seed = 0
    data: Data
    networks: dict[Name, Network] = Field(min_length=1)
    losses: list[Term] = Field(min_length=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule
    loop: Loop = Loop()
    evaluate: Evaluate = Evaluate()
    tracking: Tracking = Tracking()
    tuned: str | None = Field(
        None, description="how its settings were chosen, in words; the search of a sweep writes it"
    )
    baseline: OtherRecipe | None = Field(None, description="a run that stands beside this one in the closing table")
    # not fields: no recipe can set them, only the command line
    _trust_checkpoint: bool = pydantic.PrivateAttr(False)
    _assignments: tuple[str, ...] = pydantic.PrivateAttr(())
    _told: dict[str, str] = pydantic.PrivateAttr({})
    _root_in_file: str | None = pydantic.PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """Whether two recipes say the same, whatever made them say it."""
        return isinstance(other, Recipe) and self.model_dump() == other.model_dump()

    @property
    def trust_checkpoint(self) -> bool:
        """Whether weights files that could start code are read, by the user's own hand."""
        return self._trust_checkpoint

    @property
    def assignments(self) -> tuple[str, ...]:
        """What the command line set, as key=value."""
        return self._assignments

    @property
    def root_in_file(self) -> str | None:
        """`data.root` as the file says it, where the command line has set another one."""
        return self._root_in_file

    @property
    def told_by_weights(self) -> dict[str, str]:
        """Network -> what its weights have told of it and the recipe had not said, in words."""
        return self._told

    @property
    def others(self) -> list[OtherRecipe]:
        """The recipes whose runs this one needs: teachers first, then the baseline."""
        values = [*(network.weights for network in self.networks.values()), self.baseline]
        return [value for value in values if isinstance(value, OtherRecipe)]

    @property
    def sees_labelled(self) -> bool:
        """Whether a term ever sees the images of data.dataset as those that have labels."""
        return any(term.is_ever_active and "labelled" in term.source_streams for term in self.losses)

    @property
    def judged_by_loss(self) -> bool:
        """Whether the loss on held-out images judges the student, which has no scores, or no labels to be scored by."""
        return not (parts.has_labels(self.data.dataset) and self.networks["student"].has_head)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.tracking.folder) / self.name

    @property
    def extra_images(self) -> int:
        """How many images of a batch of labelled ones are of data.extra."""
        return 0 if self.data.extra is None else self.data.extra.images_of(self.data.batch_size)

    @property
    def _taught_by(self) -> list[Term]:
        """The terms that learn from a network, at some weight."""
        return [term for term in self.losses if term.source is not None and term.is_ever_active]

    @property
    def method_name(self) -> str:
        """What tables call the experiment: `method`, else what the student learns from beside the labels, or `none`."""
        learnt = dict.fromkeys(term.loss for term in self._taught_by)
        if self.data.extra is not None:
            learnt |= {"extra labels" if self.data.extra.pseudo is None else "pseudo-labels": None}
        start = self.networks["student"].continues if "student" in self.networks else None
        if start is not None:
            learnt |= {f"after {start}": None}
        return self.method or " + ".join(learnt) or "none"

    @property
    def learns_alone(self) -> bool:
        """Whether the student learns from the data set's labels only: from no network, nor what one has left behind."""
        from_others = bool(self._taught_by) or self.data.extra is not None
        return not from_others and self.networks["student"].continues is None

    def writes_at(self, done: int) -> bool:
        """Whether the log is written out after this many iterations."""
        return done % self.tracking.every == 0 or done == self.schedule.iterations

    def evaluates_at(self, done: int) -> bool:
        """Whether the student is scored after this many iterations."""
        return done % self.evaluate.every == 0 or done == self.schedule.iterations

    def saves_at(self, done: int) -> bool:
        """Whether a checkpoint is written after this many iterations."""
        return self.evaluates_at(done) or (self.loop.save_every is not None and done % self.loop.save_every == 0)

    def with_iterations(self, iterations: int) -> "Recipe":
        """The recipe with as many iterations as were measured to fit into its time."""
        schedule = self.schedule.model_copy(update={"iterations": iterations, "measured": self.schedule.budget})
        return self.model_copy(update={"schedule": schedule})

    def source_of(self, term: Term) -> str | None:
        """Network a term learns from: its `from`, or the only other network, or None."""
        others = [name for name in self.networks if name != term.of]
        return term.source or (others[0] if len(others) == 1 else None)

    def caches_on(self, stream: str) -> dict[str, Cache]:
        """The caches of the networks that a term ever reads on the `labelled` or `unlabelled` images."""
        terms = [term for term in self.losses if term.is_ever_active and stream in term.source_streams]
        read = {term.source_in(self) for term in terms}
        return {name: one.cache for name, one in self.networks.items() if name in read and one.cache is not None}

    def wrong(self) -> Iterator[Mistake]:
        """What does not go together: names that refer to nothing, sections that contradict each other, idle time."""
        networks = ", ".join(self.networks)
        if "student" not in self.networks:
            yield ("networks",), f"one network must be called student; there are: {networks}"
        for name, network in self.networks.items():
            yield from ((("networks", name, *key), text) for key, text in network.wrong(name, self))
        labels: set[str] = set()
        for index, term in enumerate(self.losses):
            yield from ((("losses", index, *key), text) for key, text in term.wrong(self))
            label = term.label or term.loss
            if label in labels:
                yield ("losses", index), f"two terms are called {label!r} in the log; give one a label:"
            labels.add(label)
        for index, words in enumerate(self.evaluate.also):
            for name in words.split("+"):
                if name not in self.networks:
                    text = f"there is no network {name!r}; there are: {networks} (joined by +)"
                    yield ("evaluate", "also", index), text
        yield from ((("schedule", *key), text) for key, text in self.schedule.wrong())
        yield from ((("optimizer", *key), text) for key, text in self.optimizer.wrong())
        for place, schedule, optimizer in self._rates():
            if schedule.min_lr > optimizer.lr:
                text = f"is {schedule.min_lr:g}, above the learning rate, {optimizer.lr:g}; the rate would rise to it"
                yield (*place, "schedule", "min_lr"), f"{text}; lower it"
        if self.data.test_split in (self.data.train_split, self.data.val_split):
            text = f"{self.data.test_split} is trained on, or chooses the student; name another split, or leave it out"
            yield ("data", "test_split"), text
        if self.data.cache_folder is not None and self.data.cache != "disk":
            yield ("data", "cache_folder"), f"says where cache: disk lies, and cache is {self.data.cache or 'not set'}"
        other = self.data.unlabelled
        if other is not None and other.shards is not None:
            if other.images is not None:
                yield ("data", "unlabelled", "shards"), "stands in the place of images, and both are set; leave one out"
            for name in self.caches_on("unlabelled"):
                text = "keeps what a network makes of images whose number is known, and that of shards is not; leave it out"
                yield ("networks", name, "cache"), text
        batches = {"data.batch_size": self.data.batch_size, "data.unlabelled.batch_size": other and other.batch_size}
        for field, batch_size in batches.items():
            if batch_size is not None and batch_size % self.loop.accumulate:
                text = f"{self.loop.accumulate} parts do not divide {field}, which is {batch_size} in total"
                yield ("loop", "accumulate"), text
        if self.data.extra is not None:
            yield from ((("data", "extra", *key), text) for key, text in self.data.extra.wrong(self))
        yield from self._wrong_gates()
        if "student" in self.networks:
            yield from self._wrong_without_labels()

    def _rates(self) -> Iterator[tuple[Key, Curve, Optimizer]]:
        """Curve and optimizer of the recipe, and of each network that has one of its own, with the section's place."""
        yield (), self.schedule, self.optimizer
        for name, network in self.networks.items():
            if network.train and (network.schedule is not None or network.optimizer is not None):
                yield ("networks", name), network.schedule or self.schedule, network.optimizer or self.optimizer

    def _wrong_without_labels(self) -> Iterator[Mistake]:
        """What asks for labels, or for classes, where there are none."""
        dataset = self.data.dataset
        unlabelled = not parts.has_labels(dataset)
        if unlabelled and not self.data.args.get("class_names"):
            for name, network in self.networks.items():
                if network.train and network.model is not None and network.has_head:
                    text = f"has a head, and the images of data.dataset: {dataset} have no classes for it"
                    yield (
                        ("networks", name),
                        f"{text}; write args.head: null, or name classes with data.args.class_names",
                    )
        scored = {("evaluate", "also"): self.evaluate.also, ("evaluate", "metrics"): self.evaluate.metrics}
        scored |= {("data", "test_split"): self.data.test_split}
        for key in [key for key, value in scored.items() if value and self.judged_by_loss]:
            yield key, "nothing is scored: the student has no head, or there are no labels; leave it out"

    def _wrong_gates(self) -> Iterator[Mistake]:
        """Iterations at which there would be nothing to train."""
        terms = [term for term in self.losses if term.is_ever_active]
        if not terms:
            yield ("losses",), "every term has weight 0, so there is nothing to train; give one a weight"
            return
        if not all(term.comes_and_goes for term in terms):
            return
        instants = {0}.union(*(term.may_fall_silent_at() for term in terms))
        idle = [i for i in sorted(instants) if i < self.schedule.iterations and not any(t.weight_at(i) for t in terms)]
        if idle:
            when = f"no term is active at iteration {idle[0]} (counted from 0), so there is nothing to train then"
            yield ("losses",), f"{when}; change a term's after, until or weight"

    def complete(self) -> "Recipe":
        """The recipe with what one of its sections takes from another written out."""
        data, other = self.data, self.data.unlabelled
        if other is not None:
            own = {key: getattr(other, key) or getattr(data, key) for key in ("transform", "batch_size")}
            data = data.model_copy(update={"unlabelled": other.model_copy(update=own)})
        if data.extra is not None:
            data = data.model_copy(update={"extra": data.extra.complete()})
        return self.model_copy(update={"data": data, "losses": [term.complete(self) for term in self.losses]})

    def dump(self) -> str:
        """The recipe as YAML to stand in its run folder, every default written out."""
        values = self.model_dump(mode="json", by_alias=True)
        others = [network["weights"] for network in values["networks"].values()] + [values["baseline"]]
        for other in others:
            if isinstance(other, dict) and "://" not in other["recipe"]:
                other["recipe"] = os.path.relpath(other["recipe"], self.folder)
        return write(values)
