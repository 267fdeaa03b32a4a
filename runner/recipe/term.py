"""The section of a recipe on one loss term, and when the term is active."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from annotated_types import Interval
from pydantic import Field

from segkd.runner.recipe import parts
from segkd.runner.recipe.mistakes import Mistake, did_you_mean
from segkd.runner.recipe.section import Iteration, Iterations, Section

if TYPE_CHECKING:
    from segkd.runner.recipe.schema import Recipe

Weight = Annotated[float, Interval(ge=0, le=1e9)]  # below 0 a loss would be made as large as it can be


class Ramp(Section):
    start: Weight
    end: Weight
    over: tuple[Iteration, Iterations] = Field(description="first and last iteration of the linear change")
    hold: Iterations = Field(1, description="the weight changes every so many iterations (an epoch's worth, in AICSD)")

    @pydantic.field_validator("over")
    @classmethod
    def _rises(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] >= value[1]:
            raise ValueError("the last iteration must come after the first")
        return value

    def at(self, iteration: int) -> float:
        """`start` up to the first iteration of `over`, `end` from its last on, constant for `hold` iterations each."""
        first, last = self.over
        passed = last - first if iteration >= last else max(iteration - first, 0) // self.hold * self.hold
        return self.start + (self.end - self.start) * passed / (last - first)


class Term(Section):
    """One edge of the graph: a loss that trains the network `of`, reading the network `source`."""

    loss: str = Field(description="file name in losses/")
    of: str = Field("student", description="the network this term trains")
    source: str | None = Field(None, alias="from", description="the network it learns from; default: the only other")
    on: Literal["labelled", "unlabelled", "both", "strong"] = Field(
        "labelled",
        description="which images the term sees; strong: `of` sees strong views of unlabelled ones, `from` weak views",
    )
    weight: Weight | Ramp = 1.0
    after: Iteration | None = Field(None, description="active from the iteration after this one (0-based)")
    until: Iteration | None = Field(None, description="active up to this iteration")
    detach: bool = Field(True, description="no gradient into the source")
    label: str | None = Field(None, description="name in the log; default: the loss's name")
    args: dict = Field({}, description="the loss's own arguments")

    def weight_at(self, iteration: int) -> float:
        """The term's weight at an iteration (0-based), 0 where it is not active.

        Both gates are exact: `after: n` is TSIC's `iteration > n`, and meets `until: n` without overlap.
        """
        if (self.after is not None and iteration <= self.after) or (self.until is not None and iteration > self.until):
            return 0.0
        return self.weight.at(iteration) if isinstance(self.weight, Ramp) else self.weight

    @property
    def comes_and_goes(self) -> bool:
        """Whether the term may be active at some iterations only."""
        return isinstance(self.weight, Ramp) or (self.after, self.until) != (None, None)

    @property
    def source_streams(self) -> tuple[str, ...]:
        """The streams of images the source is run on; of strong views it sees the weak ones."""
        return {"labelled": ("labelled",), "both": ("labelled", "unlabelled")}.get(self.on, ("unlabelled",))

    @property
    def is_ever_active(self) -> bool:
        """False where the weight is 0 throughout."""
        ends = (self.weight.start, self.weight.end) if isinstance(self.weight, Ramp) else (self.weight,)
        return any(ends)

    def is_active_in(self, iterations: int) -> bool:
        """Whether the weight is other than 0 at some of so many iterations."""
        first = 0 if self.after is None else self.after + 1
        last = iterations - 1 if self.until is None else min(self.until, iterations - 1)
        # a ramp is 0 at one of its ends, if at all
        return first <= last and any(self.weight_at(iteration) for iteration in (first, last))

    def may_fall_silent_at(self) -> set[int]:
        """The iterations from which on the weight may be 0, beside the first one: gates and ramps know no others."""
        found = set() if self.until is None else {self.until + 1}
        if isinstance(self.weight, Ramp):
            found |= set(self.weight.over)
        return found

    def trains(self, network: str) -> bool:
        """Whether the term gives a network gradients."""
        return self.of == network or (self.source == network and not self.detach)

    def source_in(self, recipe: "Recipe") -> str | None:
        """The network that the term learns from in a recipe, None where its loss reads no other."""
        reads = self.loss in parts.names("losses") and parts.needs_teacher(self.loss)
        return recipe.source_of(self) if reads else self.source

    def wrong(self, recipe: "Recipe") -> Iterator[Mistake]:
        """Names of networks that do not exist or cannot serve, and images that the recipe does not provide."""
        networks = ", ".join(recipe.networks)
        is_known = self.loss in parts.names("losses")
        if self.on != "labelled" and recipe.data.unlabelled is None:
            needed = "add data.unlabelled, and data.labelled to leave some over for it"
            if not parts.has_labels(recipe.data.dataset):
                needed = "add data.unlabelled, {} for those of data.dataset"
            yield ("on",), f"{self.on} needs unlabelled images; {needed}"
        elif self.on == "strong" and recipe.data.unlabelled.strong is None:
            yield ("on",), "strong views are not made; add data.unlabelled.strong ({} for its defaults)"
        if "labelled" in self.source_streams and not parts.has_labels(recipe.data.dataset):
            yield ("on",), f"the images of data.dataset: {recipe.data.dataset} have no labels; write on: unlabelled"
        if self.on != "labelled" and is_known and parts.needs_labels(self.loss):
            yield ("on",), f"{self.loss} reads labels, which these images do not have; only on: labelled"
        for key, name in (("of", self.of), ("from", self.source)):
            if name is not None and name not in recipe.networks:
                hint = did_you_mean(name, list(recipe.networks))
                yield (key,), f"there is no network {name!r}{hint}; there are: {networks}"
        if self.of in recipe.networks and not recipe.networks[self.of].train:
            yield ("of",), f"{self.of} is frozen (train: false), so no loss can train it"
        if None not in (self.after, self.until) and self.after >= self.until:
            yield ("until",), f"the term is active behind iteration {self.after} (after) up to {self.until}: never"
        if self.source == self.of:
            yield ("from",), f"{self.of} cannot learn from itself"
        elif is_known and self.source in recipe.networks and not parts.needs_teacher(self.loss):
            yield ("from",), f"{self.loss} reads no other network; leave it out, or name a loss that does"
        source = recipe.source_of(self)
        if not self.detach and source in recipe.networks and not recipe.networks[source].train:
            yield ("detach",), f"{source} is not trained, so no gradient goes into it; leave it out"
        elif not self.detach and is_known and parts.detaches_source(self.loss):
            yield ("detach",), f"{self.loss} teaches one network alone, and gives its source no gradient; leave it out"
        if is_known and parts.needs_teacher(self.loss) and source is None:
            yield (), f"{self.loss} learns from another network; name it with from: (there are: {networks})"

    def complete(self, recipe: "Recipe") -> "Term":
        """The term with its source and its label written out."""
        return self.model_copy(update={"source": self.source_in(recipe), "label": self.label or self.loss})
