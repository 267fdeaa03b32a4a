"""The sections of a recipe on how weights are updated: the optimizer, the curve of its learning rate, and for how long."""

from collections.abc import Iterator
from typing import Annotated, Literal

import pydantic
from annotated_types import Interval
from pydantic import Field

from segkd.runner.console import clock
from segkd.runner.recipe.mistakes import Mistake
from segkd.runner.recipe.section import Factor, Iteration, Iterations, Rate, Section

# share of what was there before that is kept at each step
Decay = Annotated[float, Interval(ge=0, lt=1)]
# iterations of a training that is given its time, until they are measured: as many as there may be
OPEN = 10**9


class Optimizer(Section):
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[Rate, Interval(gt=0)] = 0.01
    momentum: Decay = Field(0.9, description="sgd only")
    nesterov: bool = False
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="adam and adamw only")
    weight_decay: Rate = 1e-4
    head_lr_scale: Factor = Field(1.0, description="factor on the rate of all outside `backbone`")
    no_decay: list[str] = Field([], description="words in names of parameters; `norm`: all normalisation layers")

    def wrong(self) -> Iterator[Mistake]:
        """What the optimizer of this name does not read."""
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            yield ("nesterov",), "is for name: sgd with a momentum; leave it out"


class Curve(Section):
    name: Literal["poly", "cosine", "constant", "step"] = "poly"
    power: Annotated[float, Interval(gt=0, le=100)] = Field(0.9, description="poly only")
    min_lr: Rate = Field(0.0, description="the rate poly and cosine end at")
    drop_every: Iterations | None = Field(None, description="step only: iterations between two drops")
    drop_factor: Annotated[float, Interval(gt=0, le=1)] = Field(
        0.1, description="step only: what the rate is multiplied by at a drop"
    )
    lag: Iteration = Field(0, description="iterations the rate stays behind (1 in TriKD's released code)")
    warmup: Iteration = Field(0, description="iterations the rate rises over, from 0 at iteration 0")
    end: Iterations | None = Field(None, description="iteration poly and cosine end at; default: the last one")

    def wrong(self) -> Iterator[Mistake]:
        """A curve without what it needs, or with what it does not read."""
        if self.name == "step" and self.drop_every is None:
            yield ("drop_every",), "is missing; name: step needs the iterations between two drops"
        if self.name != "step" and self.drop_every is not None:
            yield ("drop_every",), f"is read by name: step alone, and name is {self.name}; leave it out, or say step"
        for key, given in (("min_lr", self.min_lr != 0), ("end", self.end is not None)):
            if given and self.name in ("constant", "step"):
                yield (key,), f"is read by poly and cosine alone, and name is {self.name}; leave it out"


class Schedule(Curve):
    iterations: Iterations
    hours: Annotated[float, Interval(gt=0, le=1e5)] | None = Field(
        None, description="time to train for, scoring and saving left out; takes the place of iterations"
    )
    seconds: Annotated[float, Interval(gt=0, le=1e9)] | None = Field(None, description="as hours")
    measured: Annotated[float, Interval(gt=0, le=1e9)] | bool = Field(
        False, description="the seconds that iterations were measured to fit into; a run writes it, and nobody else"
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _leave_open(cls, values: object) -> object:
        budget = _budget(values.get("hours"), values.get("seconds")) if isinstance(values, dict) else None
        if budget is None:
            return values
        if values.get("measured") is True:  # as it was written at first
            return {**values, "measured": budget}
        return values if values.get("measured") == budget else {**values, "iterations": OPEN}

    @property
    def budget(self) -> float | None:
        """Seconds to train for; None where the iterations are given."""
        return _budget(self.hours, self.seconds)

    @property
    def is_open(self) -> bool:
        """Whether the number of iterations is still to be measured."""
        return self.budget is not None and self.measured != self.budget

    def iterations_at(self, step: float) -> int:
        """As many as there are or, where they are still to be measured, as fit at so many seconds a step."""
        return max(1, int(self.budget / step)) if self.is_open else self.iterations

    @property
    def length(self) -> str:
        """How long the training is, for a table."""
        return clock(self.budget) if self.is_open else str(self.iterations)

    @property
    def words(self) -> str:
        """How long the training is, in a sentence."""
        return f"{self.length} of iterations" if self.is_open else f"{self.iterations} iterations"

    def wrong(self) -> Iterator[Mistake]:
        """As of a curve, and a length that is given twice."""
        yield from super().wrong()
        if self.hours is not None and self.seconds is not None:
            yield ("seconds",), "is given in hours, too; leave one of them out (hours=null)"
        if self.measured and self.budget is None:
            yield ("measured",), "is written by a run that is given hours or seconds; leave it out"


def _budget(hours: object, seconds: object) -> float | None:
    """Seconds to train for, as a recipe gives them; None where it gives no number."""
    if isinstance(hours, int | float):
        return 3600.0 * hours
    return float(seconds) if isinstance(seconds, int | float) else None
