"""The section of a recipe on what is kept of a frozen network's predictions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval
from pydantic import Field

from segkd.runner.recipe.mistakes import Mistake
from segkd.runner.recipe.section import Section, Seed

if TYPE_CHECKING:
    from segkd.runner.recipe.schema import Recipe


class Cache(Section):
    views: Annotated[int, Interval(ge=1, le=4096)] = Field(
        16,
        description="random views of each image, as far as a run shows so many; an epoch shows one, drawn with the seed",
    )
    logits: Literal["full"] | Annotated[int, Interval(ge=1, le=2**16)] = Field(
        "full", description="full, or so many of the largest classes of each pixel and the mass of the rest"
    )
    bits: Literal[8, 16] = Field(16, description="of each number on the disk (runner/building/stored_maps.py)")
    seed: Seed = Field(
        0,
        description="of the views; runs of any seed share those of one cache seed, unless a share of the labels "
        "(data.labelled: 1/8) is drawn with theirs",
    )
    folder: str | None = Field(None, description="where it lies; default: <tracking.folder>/teacher_cache")
    max_gib: Annotated[float, Interval(gt=0, le=1e6)] = Field(
        20.0, description="size on the disk, when full, above which it is refused"
    )

    def wrong(self, name: str, recipe: "Recipe") -> Iterator[Mistake]:
        """Why the predictions of the network `name` cannot be kept: they change, or the images do."""
        network = recipe.networks[name]
        frozen = "a cache is for frozen networks (train: false)"
        if network.ema_of is not None:
            yield (), f"{name} is a moving average, so what it says of a view changes; {frozen}"
        elif network.train:
            yield (), f"{name} is trained, so what it says of a view changes; {frozen}"
        if network.prompted_by is not None:
            text = f"{name} is prompted by {network.prompted_by}, so what it says of a view changes with the prompt"
            yield (), f"{text}; leave one of them out"
        prompted = [other for other, entry in recipe.networks.items() if entry.prompted_by == name]
        if prompted:
            yield (), f"{name} prompts {prompted[0]}, and only terms can read a cache; leave one of them out"
        if recipe.data.mix is not None and name in recipe.caches_on("labelled"):
            text = "data.mix makes one image of two, which is no view of one image that could come again"
            yield (), f"{text}; leave one of them out"
        for stream in ("labelled", "unlabelled"):
            together = recipe.caches_on(stream)
            first = next(iter(together), name)
            if name in together and (together[first].views, together[first].seed) != (self.views, self.seed):
                yield (
                    (),
                    f"the {stream} images have one set of views; give it the views and the seed of {first}'s cache",
                )
