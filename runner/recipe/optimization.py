"""The sections of a recipe on how weights are updated: the optimizer, and the curve of its learning rate."""

from collections.abc import Iterator
from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import Field

from segkd.runner.recipe.mistakes import Mistake
from segkd.runner.recipe.section import Factor, Iteration, Iterations, Rate, Section

# share of what was there before that is kept at each step
Decay = Annotated[float, Interval(ge=0, lt=1)]


class Optimizer(Section):
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[Rate, Interval(gt=0)] = 0.01
    momentum: Decay = Field(0.9, description="sgd only")
    nesterov: bool = False
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="adam and adamw only")
    weight_decay: Rate = 1e-4
    head_lr_scale: Factor = Field(1.0, description="factor on the rate of all outside `backbone`")
    no_decay: list[str] = Field([], description="words in names of parameters; `norm`: all normalisation layers")


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
        """A curve without what it needs."""
        if self.name == "step" and self.drop_every is None:
            yield ("drop_every",), "is missing; name: step needs the iterations between two drops"
