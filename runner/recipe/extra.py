"""The section of a recipe on images whose labels are of another kind than the data set's, such as a teacher's."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval
from pydantic import Field

from segkd.runner.recipe.mistakes import Mistake, did_you_mean
from segkd.runner.recipe.section import Section
from segkd.runner.recipe.term import Weight

if TYPE_CHECKING:
    from segkd.runner.recipe.schema import Recipe

Share = Annotated[float, Interval(gt=0, le=1)]
REST = "unlabelled"  # the word for the images that data.labelled leaves out
CONFIDENCE = 0.9


class Pseudo(Section):
    """Labels that a frozen network of the recipe makes before the training, kept for every run that asks for the same.

    They pay where the teacher costs much more than the student: it sees each image once, whole, with all the scales and
    mirrored views of `evaluate`, and not a crop of it at every step; where its labels are to be looked at, or passed on;
    and where it is right far more often than the student, since all but its most probable class is lost. A live teacher
    (a term with `on: unlabelled`) pays where its whole distribution or its features teach, where it sees the same strong
    augmentation as the student, where it changes while the student learns, or where few steps are trained on many images.
    """

    network: str = Field("teacher", description="whose labels: a frozen network of this recipe with a head")
    images: str = Field(REST, description="folder, at any depth; unlabelled: what data.labelled leaves out")
    confidence: Share | None = Field(
        None, description=f"pixels of a lower probability are ignored; default: {CONFIDENCE}, without share"
    )
    share: Share | None = Field(
        None, description="instead: the share of each class's pixels, over all images, that is kept, the surest first"
    )
    folder: str | None = Field(
        None,
        description="where these labels lie; others in it are refused; default: in <tracking.folder>/pseudo_labels",
    )


class Extra(Section):
    images: str | None = Field(None, description="folder, at any depth; or unlabelled: what data.labelled leaves out")
    labels: str | None = Field(
        None, description="folder with the label <name>.png of each: train ids 0..K-1, and 255 where nothing counts"
    )
    pseudo: Pseudo | None = Field(None, description="in place of images and labels: those that a network makes first")
    weight: Weight = Field(
        1.0,
        description="factor on the gradient that terms which read labels have by their pixels; the terms' values stay",
    )
    share: Annotated[float, Interval(gt=0, lt=1)] = Field(0.5, description="of the images of a batch, at least one")

    @property
    def source(self) -> str:
        """Where the images are from: a folder, or unlabelled."""
        return self.pseudo.images if self.pseudo is not None else self.images

    def images_of(self, batch_size: int) -> int:
        """How many images of a batch are extra ones: the rounded share, but one of each kind at least."""
        return min(max(round(self.share * batch_size), 1), batch_size - 1)

    def complete(self) -> "Extra":
        """The section with the default of the confidence written out."""
        if self.pseudo is None or self.pseudo.share is not None:
            return self
        confidence = self.pseudo.confidence or CONFIDENCE
        return self.model_copy(update={"pseudo": self.pseudo.model_copy(update={"confidence": confidence})})

    def wrong(self, recipe: "Recipe") -> Iterator[Mistake]:
        """What is said twice or not at all, and what the recipe does not go with."""
        by_hand = (self.images, self.labels)
        if by_hand.count(None) != (2 if self.pseudo is not None else 0):
            yield (), "must have either images and labels, or pseudo"
            return
        if self.source == REST and recipe.data.labelled is None:
            yield (), "no image is left over; say with data.labelled which have labels (such as 1/8), or name a folder"
        if not recipe.sees_labelled:
            yield (), "no term sees images with labels; leave it out, or add a term with on: labelled"
        if recipe.data.batch_size == 1:
            yield (), "a batch of one image cannot have images of both kinds; raise data.batch_size"
        if self.weight != 1 and recipe.data.mix is not None:
            yield ("weight",), "data.mix pastes images of both kinds into each other; leave one of them out"
        for name in recipe.caches_on("labelled"):
            yield (), f"the images are no part of {name}'s cache; leave networks.{name}.cache or data.extra out"
        if self.pseudo is not None:
            yield from ((("pseudo", *key), text) for key, text in self._wrong_teacher(recipe))

    def _wrong_teacher(self, recipe: "Recipe") -> Iterator[Mistake]:
        name = self.pseudo.network
        if self.pseudo.confidence is not None and self.pseudo.share is not None:
            yield ("share",), "either a confidence or a share of each class decides what is kept; leave one of them out"
        if name not in recipe.networks:
            known = list(recipe.networks)
            yield (
                ("network",),
                f"there is no network {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}",
            )
            return
        network = recipe.networks[name]
        if network.train or network.ema_of is not None or network.prompted_by is not None:
            text = "labels are made before the training, by a network with train: false that needs no other"
            yield ("network",), f"{name} is trained, an average or prompted; {text}"
        elif network.model is not None and not network.has_head:
            yield ("network",), f"{name} has no head, so it makes no labels"
