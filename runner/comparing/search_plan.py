"""What a sweep's section `search` asks for: which settings of its recipes are tried, and how they are chosen."""

import json
import math
from collections.abc import Iterable
from typing import Annotated, Literal

import pydantic
from annotated_types import Interval
from pydantic import Field

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import Iterations, Part, Section, Seed
from segkd.runner.recipe.yaml_file import value_at

Whole = Annotated[int, Interval(ge=-(10**9), le=10**9)]
Real = Annotated[float, Interval(ge=-1e9, le=1e9)]
DIGITS = 4  # of the numbers that are tried: recipes are read by people, too


class Parameter(Section):
    low: Whole | Real | None = None
    high: Whole | Real | None = None
    log: bool = Field(False, description="drawn evenly in the logarithm")
    step: Whole | Real | None = Field(None, description="the grid of the values; of whole numbers, they stay whole")
    choices: list | None = Field(None, min_length=1, description="any values, in place of a range")

    def wrong(self) -> str | None:
        """What does not go together, in words."""
        if (self.choices is None) == (None in (self.low, self.high)):
            return "needs either low and high, or choices"
        if self.choices is not None:
            return "choices have neither log nor step" if self.log or self.step is not None else None
        if self.low >= self.high:
            return f"low is {self.low:g} and high {self.high:g}; low must be the lower one"
        if self.log and self.step is not None:
            return "either log or step; leave one of them out"
        if self.log and self.low <= 0:
            return f"low is {self.low:g}; a logarithm needs it above 0"
        if self.step is not None and self.step <= 0:
            return f"step is {self.step:g}; it must be above 0"
        return None

    @property
    def is_whole(self) -> bool:
        """Whether its values are integers."""
        return self.step is not None and all(isinstance(one, int) for one in (self.low, self.high, self.step))

    @property
    def ends(self) -> list:
        """Values that a recipe must take for it to take all."""
        return [self.low, self.high] if self.choices is None else self.choices

    @property
    def words(self) -> str:
        """`0.1 to 10 (log)`."""
        if self.choices is not None:
            return " or ".join(json.dumps(value) for value in self.choices)
        kind = " (log)" if self.log else f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{kind}"


class Search(Section):
    parameters: dict[str, Parameter] = Field(
        min_length=1, description="key of a recipe -> its values; each method searches those that its recipe has"
    )
    trials: Annotated[int, Interval(ge=1, le=10**5)] = Field(
        20, description="of each method, the baseline too; pruned and failed ones count"
    )
    sampler: Literal["tpe", "random"] = "tpe"
    seed: Seed = Field(0, description="of the sampler")
    pruner: Literal["median", "hyperband", "none"] = Field(
        "median", description="what ends trials early, by the scores of their evaluations so far"
    )
    startup: Iterations | None = Field(
        None, description="first trials, drawn at random and not ended by the median; default: a quarter, 10 at most"
    )
    tuning_part: Part = Field(0.1, description="data.tuning_part of the trials: what they are scored on")
    assignments: list[str] = Field([], alias="set", description="key=value, for all trials, such as a shorter schedule")

    @pydantic.field_validator("parameters")
    @classmethod
    def _sound(cls, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
        wrong = {key: one.wrong() for key, one in parameters.items()}
        if any(wrong.values()):
            raise ValueError("; ".join(f"{key}: {text}" for key, text in wrong.items() if text))
        return parameters

    @property
    def startup_trials(self) -> int:
        """`startup`, or its default."""
        return self.startup or min(10, max(1, self.trials // 4))

    def parameters_of(self, recipe: Recipe) -> dict[str, Parameter]:
        """Those that a recipe has, in the order they are drawn in.

        What other methods may not have comes last: each draw depends on those before it, and settings that methods
        share are to be tried alike.
        """
        own = [key for key in self.parameters if _has(recipe, key)]
        return {
            key: self.parameters[key] for key in sorted(own, key=lambda key: key.startswith(("losses.", "networks.")))
        }

    def told(self, recipe: Recipe, counts: str) -> str:
        """How a method was tuned, in words.

        Args:
            counts: how its trials ended.
        """
        found = ", ".join(f"{key} {one.words}" for key, one in self.parameters_of(recipe).items())
        return f"{counts} by {self.sampler} of {found}; judged on {self.tuning_part} of {recipe.data.train_split}"


def assigned(key: str, value: object) -> str:
    """`optimizer.lr=0.01234`."""
    if isinstance(value, float):
        value = float(f"{value:.{DIGITS}g}")
    return f"{key}={json.dumps(value)}"


def mistakes_in(search: Search, recipes: dict[str, tuple[str, list[str], Recipe]]) -> Iterable[str]:
    """Parameters that no method has, methods that have none, values that a recipe does not take, and no scores.

    Args:
        recipes: method -> the path of its recipe, its overrides, and what they make.
    """
    for key in search.parameters:
        if not any(_has(recipe, key) for _, _, recipe in recipes.values()):
            yield f"search.parameters: {key} is a key of no method's recipe"
        if key in ("name", "seed", "data.tuning_part") or key.startswith(("tracking.", "evaluate.")):
            yield f"search.parameters: {key} does not change what is learnt, or the sweep sets it; leave it out"
    for method, (path, given, recipe) in recipes.items():
        if recipe.judged_by_loss:
            yield f"search: {method} is judged by its own loss, by which settings cannot be chosen (it changes with them)"
        own = search.parameters_of(recipe)
        if not own:
            yield f"search: {method} has none of the parameters, so there is nothing to try; add one, such as optimizer.lr"
        said = [*given, *search.assignments]
        for key, parameter in own.items():
            wrong = [mistake for value in parameter.ends for mistake in _refused(path, said, key, value)]
            yield from (f"search.parameters, in {method}: {mistake}" for mistake in wrong)
            if not wrong and parameter.choices is None and parameter.step is None:
                between = parameter.low + (parameter.high - parameter.low) / math.pi
                if _refused(path, said, key, between):
                    yield f"search.parameters, in {method}: {key} takes whole numbers alone; give it step: 1, and no log"


def _refused(path: str, given: list[str], key: str, value: object) -> list[str]:
    """The mistakes in a recipe with this value."""
    try:
        read(path, [*given, assigned(key, value)])
    except RecipeError as error:
        return error.mistakes
    return []


def _has(recipe: Recipe, key: str) -> bool:
    values = recipe.model_dump(mode="json", by_alias=True)
    numbered = dict(enumerate(values["losses"]))
    values["losses"] = {str(name): term for index, term in numbered.items() for name in (index, term["label"])}
    *outer, last = key.split(".")
    section = value_at(values, *outer) if outer else values
    return isinstance(section, dict) and last in section
