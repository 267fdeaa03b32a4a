"""What every section of a recipe is, and the words that several of them use."""

from typing import Annotated, Literal

import pydantic
from annotated_types import Interval
from pydantic import Field

from segkd.runner.recipe.ranges import SIDES

# ranges of numbers, wide enough for any experiment and narrow enough for what computes with them
Seed = Annotated[int, Interval(ge=0, le=10**18)]
Iterations = Annotated[int, Interval(ge=1, le=10**9)]
Iteration = Annotated[int, Interval(ge=0, le=10**9)]  # counted from 0
Images = Annotated[int, Interval(ge=1, le=2**16)]
Side = Annotated[int, SIDES]
Rate = Annotated[float, Interval(ge=0, le=1e3)]
Factor = Annotated[float, Interval(gt=0, le=1e6)]
Share = Annotated[float, Interval(gt=0, lt=1)]
Part = Share | str  # of the training images: a share of them, or a list
Grey = Annotated[float, Field(ge=0, le=255)]
Spread = Annotated[float, Field(ge=1, le=255)]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Section(pydantic.BaseModel):
    """A section of a recipe: a key that is none of its fields is a mistake, and so is a value of another type.

    What cannot go together inside of a section is a ValueError of a field's validator. What cannot go with the rest of
    the recipe is told by the section's `wrong`, as (key inside the section, sentence).
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class OtherRecipe(Section):
    recipe: str = Field(description="path, relative to this recipe, of one trained first if its run is not there")


class Constants(Section):
    mean: tuple[Grey, Grey, Grey] = Field(description="in grey levels 0..255, in the channel order the network reads")
    std: tuple[Spread, Spread, Spread] = Field(description="the same; published shares of 1 times 255")
    order: Literal["rgb", "bgr"] = Field("rgb", description="the channel order the network reads")
