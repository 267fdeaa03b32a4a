"""The sections of a recipe on how weights are updated: the optimizer, and the curve of its learning rate."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from segkd.runner.recipe.mistakes import Mistake
from segkd.runner.recipe.section import Section


class Optimizer(Section):
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: PositiveFloat = 0.01
    momentum: NonNegativeFloat = Field(0.9, description="sgd only")
    nesterov: bool = False
    betas: tuple[float, float] = Field((0.9, 0.999), description="adam and adamw only")
    weight_decay: NonNegativeFloat = 1e-4
    head_lr_scale: PositiveFloat = Field(1.0, description="factor on the rate of all outside `backbone`")
    no_decay: list[str] = Field([], description="words in names of parameters; `norm`: all normalisation layers")


class Curve(Section):
    name: Literal["poly", "cosine", "constant", "step"] = "poly"
    power: PositiveFloat = Field(0.9, description="poly only")
    min_lr: NonNegativeFloat = Field(0.0, description="the rate poly and cosine end at")
    drop_every: PositiveInt | None = Field(None, description="step only: iterations between two drops")
    drop_factor: PositiveFloat = Field(0.1, description="step only: what the rate is multiplied by at a drop")
    lag: NonNegativeInt = Field(0, description="iterations the rate stays behind (1 in TriKD's released code)")
    warmup: NonNegativeInt = Field(0, description="iterations the rate rises over, from 0 at iteration 0")
    end: PositiveInt | None = Field(None, description="iteration poly and cosine end at; default: the last one")

    def wrong(self) -> Iterator[Mistake]:
        """A curve without what it needs."""
        if self.name == "step" and self.drop_every is None:
            yield ("drop_every",), "is missing; name: step needs the iterations between two drops"
