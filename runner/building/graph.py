"""Networks and loss terms as one module: the only thing optimised, wrapped for several processes and checkpointed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segkd.datasets._strong import partners
from segkd.losses._task import Features
from segkd.models._mask_prompt import mask_prompt
from segkd.models._prediction import Prediction
from segkd.runner.building.moving_average import MovingAverage
from segkd.runner.building.stopwatch import Stopwatch
from segkd.runner.loading.batch import Batch
from segkd.runner.recipe.term import Term

Places = list[tuple[int, int]]  # (index, view) of each image, see loading/batch.py

# what a term sees -> the parts of the batch its learner and its source are run on
PARTS = {
    "labelled": (("labelled", "labelled"),),
    "unlabelled": (("unlabelled", "unlabelled"),),
    "both": (("labelled", "labelled"), ("unlabelled", "unlabelled")),
    "strong": (("strong", "unlabelled"),),
}


class Graph(nn.Module):
    """forward(images, target, iteration, ...) -> {term label: unweighted loss} of the terms active at that iteration.

    A network runs at most once on each part of a batch (labelled images, unlabelled ones, their strong views), and
    only if an active term reads it there. Frozen networks are kept out of the module tree, hence out of DDP, the
    optimizer and checkpoints; they run in eval mode and without gradients, under the autocast the graph runs under.

    Args:
        networks: the trained networks.
        frozen: the others, on the device already.
        terms: the edges. losses: label -> its loss module.
        prompted_by: network -> the network whose predicted classes it gets as its prompt.
        averages: frozen network -> (the trained network it is a moving average of, the decay).
        supervised: the labels of the terms that read labels. extra_weight: factor on the gradients they give to extra
            images.
        ignore_index: of the labels.

    Attributes:
        keep_predictions: whether the next forwards leave in `kept` what each term saw, its learner's prediction and
            its source's, for whoever looks into a step.
        stopwatch: measures teachers, students and losses apart.
        wanted: network -> the features that the terms read of it, `aux` among them.
        unread: trained network -> its scores, `logits` or `aux`, that no term reads.
        shared: what frozen networks made of the images of a step, for all graphs that are trained side by side on them
            and share these networks; None: this graph is trained alone. The loop empties it after each step.

    Raises:
        ValueError: a name that torch.nn.ModuleDict does not take, or with the slash of sub-terms.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        frozen: dict[str, nn.Module],
        terms: list[Term],
        losses: dict[str, nn.Module],
        prompted_by: dict[str, str] | None = None,
        averages: dict[str, tuple[str, float]] | None = None,
        supervised: frozenset[str] = frozenset(),
        extra_weight: float = 1.0,
        ignore_index: int = 255,
    ):
        super().__init__()
        for word in (*networks, *losses):
            if "." in word or "/" in word or hasattr(nn.ModuleDict(), word):
                raise ValueError(
                    f"{word!r} cannot name a network or a term: it holds a dot or a slash, or torch's modules use the "
                    f"word; choose another"
                )
        self.networks = nn.ModuleDict(networks)
        self.losses = nn.ModuleDict(losses)
        self.terms = terms
        self.supervised, self.extra_weight, self.ignore_index = supervised, extra_weight, ignore_index
        self.keep_predictions = False
        self.kept: dict[str, tuple[Prediction, Prediction | None]] = {}
        self.wanted: dict[str, set[str]] = {}
        self.unread: dict[str, list[str]] = {}
        self.stopwatch = Stopwatch()
        self.shared: dict[tuple[int, int], tuple[Prediction, tuple]] | None = None
        self.prompted_by = prompted_by or {}
        averages = averages or {}
        # (frozen network, part of the batch) -> what gives its prediction on images that come again, see cached.py
        self.caches: dict[tuple[str, str], Callable[[Tensor, Places], Prediction]] = {}
        self.followed = {name: followed for name, (followed, _) in averages.items()}
        # in a dict nn.Module does not see them; their weights are the training state's to save
        self.averages = {name: MovingAverage(networks[followed], decay) for name, (followed, decay) in averages.items()}
        frozen = frozen | {name: average.module for name, average in self.averages.items()}
        for network in frozen.values():
            network.eval().requires_grad_(False)
        self._frozen = (frozen,)  # inside a tuple nn.Module does not see it

    def network(self, name: str) -> nn.Module:
        """A network by its name in the recipe, trained or frozen."""
        return self.networks[name] if name in self.networks else self._frozen[0][name]

    @contextmanager
    def with_student(self, student: nn.Module) -> Iterator[None]:
        """The graph with another network as student, such as the average of its own."""
        own = self.networks["student"]
        self.networks["student"] = student
        try:
            yield
        finally:
            self.networks["student"] = own

    def weights_at(self, iteration: int) -> dict[str, float]:
        """Label -> weight of the terms active at this iteration."""
        return {term.label: term.weight_at(iteration) for term in self.active_terms(iteration)}

    @property
    def leaves_some_out(self) -> bool:
        """Whether a step may end without a gradient for all that is trained.

        That is so where terms come and go, and where no term reads the scores of a network, or it has none: an encoder
        alone may have stages that no term reads.
        """
        have_scores = all(network.gives_logits for network in self.networks.values())
        return any(term.comes_and_goes for term in self.terms) or any(self.unread.values()) or not have_scores

    def active_terms(self, iteration: int) -> list[Term]:
        """The terms whose weight is not 0 at this iteration."""
        return [term for term in self.terms if term.weight_at(iteration) != 0]

    def forward(
        self,
        images: Tensor,
        target: Tensor,
        iteration: int,
        unlabelled: Batch | None = None,
        places: Places | None = None,
        extra: list[bool] | None = None,
    ) -> dict[str, Tensor]:
        """The active terms' unweighted scalars by name.

        Args:
            images: (B, 3, H, W) uint8. target: (B, H, W) int64. unlabelled: the batch of images without labels, if any;
                its target is the ignore_index on padding and 0 elsewhere. places, extra: of the labelled images, see
                Batch.
        """
        self.kept = {}  # freed before this forward needs its room
        predictions = self.predictions(images, unlabelled, iteration, places)
        losses = {}
        for term in self.active_terms(iteration):
            with self.stopwatch.measure("losses"):
                student, source, labels = self.seen_by(term, predictions, target, unlabelled)
                seen = student, source
                if extra is not None and self.extra_weight != 1 and term.label in self.supervised:
                    weights = [self.extra_weight if is_extra else 1.0 for is_extra in extra]
                    factors = torch.tensor(weights).to(target.device, non_blocking=True)  # else the GPU is waited for
                    seen = [None if one is None else weighed(one, factors) for one in seen]
                losses.update(self.loss(term, *seen, labels))
            if self.keep_predictions:
                self.kept[term.label] = student, source
        return losses

    def predictions(
        self, images: Tensor, unlabelled: Batch | None, iteration: int, places: Places | None = None
    ) -> dict[tuple[str, str], Prediction]:
        """(network, part of the batch) -> its prediction, for all that an active term reads."""
        parts = {"labelled": (images, places)}
        if unlabelled is not None:
            parts |= {"unlabelled": (unlabelled.images, unlabelled.places), "strong": (unlabelled.strong, None)}
        found: dict[tuple[str, str], Prediction] = {}
        for term in self.active_terms(iteration):
            for of_part, source_part in PARTS[term.on]:
                self._predict(term.of, of_part, parts, found)
                if term.source is not None:
                    self._predict(term.source, source_part, parts, found)
        return found

    def _predict(
        self,
        name: str,
        part: str,
        parts: dict[str, tuple[Tensor, Places | None]],
        found: dict[tuple[str, str], Prediction],
    ) -> Prediction:
        """One network's prediction on one part of the batch, made where it is not there yet."""
        if (name, part) not in found:
            (images, places), prompt = parts[part], None
            if places is not None and (name, part) in self.caches:
                with self.stopwatch.measure("teacher"):  # its forward, where something is not kept yet
                    found[name, part] = self.caches[name, part](images, places)
                return found[name, part]
            if name in self.prompted_by:
                prompt = mask_prompt(self._predict(self.prompted_by[name], part, parts, found), images.shape[-2:])
            found[name, part] = self._run(name, images, prompt)
        return found[name, part]

    def _run(self, name: str, images: Tensor, prompt: Tensor | None) -> Prediction:
        """A network's forward, or what it gave another graph that is trained on the same images."""
        network, is_trained = self.network(name), name in self.networks
        key = id(network), id(images)
        if self.shared is not None and key in self.shared:
            prediction, mark = self.shared[key]
            self.stopwatch.marks.append(mark)  # this run would have taken it as well
            return prediction
        inputs = (images,) if prompt is None else (images, prompt)
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and is_trained),
            self.stopwatch.measure("student" if is_trained else "teacher"),
        ):
            prediction = network(*inputs)
        if self.shared is not None and not is_trained and prompt is None and name not in self.averages:
            self.shared[key] = prediction, self.stopwatch.marks[-1]
        return prediction

    def share_frozen(self, other: "Graph", names: list[str]) -> None:
        """Takes another graph's frozen networks of these names for its own, which then hold what both graphs read."""
        for name in names:
            ours, theirs = self.network(name), other.network(name)
            theirs.features_wanted = theirs.features_wanted | ours.features_wanted
            theirs.aux_wanted = theirs.aux_wanted or ours.aux_wanted
            self._frozen[0][name] = theirs

    def predict(self, names: list[str], images: Tensor) -> list[Prediction]:
        """What some networks make of images that are scored, prompted as in training.

        It is no part of a step: its time is not a phase's, and nothing is shared, since images that come later may lie
        in memory where these have lain.
        """
        found: dict[tuple[str, str], Prediction] = {}
        kept, (self.shared, self.stopwatch) = (self.shared, self.stopwatch), (None, Stopwatch())
        try:
            return [self._predict(name, "labelled", {"labelled": (images, None)}, found) for name in names]
        finally:
            self.shared, self.stopwatch = kept

    def seen_by(
        self, term: Term, predictions: dict[tuple[str, str], Prediction], target: Tensor, unlabelled: Batch | None
    ) -> tuple[Prediction, Prediction | None, Tensor]:
        """What a term is computed on: its learner's prediction, its source's (detached if it is to be), the labels."""
        of_parts, source_parts = zip(*PARTS[term.on])
        student = joined([predictions[term.of, part] for part in of_parts])
        # the labels of unlabelled images only say what is padding
        labels = [target if part == "labelled" else unlabelled.target for part in of_parts]
        labels = labels[0] if len(labels) == 1 else torch.cat(labels)
        if term.on == "strong":
            labels = with_partners(labels, unlabelled.mixed)
        if term.source is None:
            return student, None, labels
        source = joined([predictions[term.source, part] for part in source_parts])
        if term.detach and term.source in self.networks:
            source = detached(source)
        return student, mixed(source, unlabelled.mixed) if term.on == "strong" else source, labels

    def loss(self, term: Term, student: Prediction, source: Prediction | None, target: Tensor) -> dict[str, Tensor]:
        """One term's unweighted value under its label; a loss of several sub-terms gives each as label/sub-term."""
        value = self.losses[term.label](student, source, target)
        if isinstance(value, dict):
            return {f"{term.label}/{part}": loss for part, loss in value.items()}
        return {term.label: value}

    def adversary_loss(self, label: str) -> Tensor:
        """What a loss's own adversary learns from the kept predictions of the last forward."""
        student, source = self.kept[label]
        return self.losses[label].adversary_loss(detached(student), detached(source))


def weighted(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Each loss times its term's weight; a sub-term `label/name` has its term's."""
    return {name: weights[name.partition("/")[0]] * value for name, value in losses.items()}


def detached(prediction: Prediction) -> Prediction:
    """The prediction with no gradient behind it."""
    return _combined([prediction], lambda maps: maps[0].detach())


def weighed(prediction: Prediction, weights: Tensor) -> Prediction:
    """The prediction, of whose gradient each image gets its own weight times; weights: (B,).

    A loss keeps its value, and its divisor. One that sums over pixels thus has each pixel's gradient multiplied, as if
    w_b l_b[y, x] stood in the sum in place of l_b[y, x].
    """

    def weigh(maps: Sequence[Tensor]) -> Tensor:
        same = maps[0].view_as(maps[0])
        if same.requires_grad:
            factors = weights.view(-1, *[1] * (same.ndim - 1))
            same.register_hook(lambda gradient: (factors * gradient).to(gradient.dtype))
        return same

    return _combined([prediction], weigh)


def joined(predictions: list[Prediction]) -> Prediction:
    """Predictions on several parts of a batch as one, images after images."""
    return predictions[0] if len(predictions) == 1 else _combined(predictions, torch.cat)


def with_partners(maps: Tensor, mask: Tensor) -> Tensor:
    """Maps of weak views put together as their strong views are, (B, ..., H, W); mask: (B, H, W), see Batch.mixed."""
    mask = mask if maps.ndim == mask.ndim else mask[:, None]
    order = torch.tensor(partners(len(maps))).to(maps.device, non_blocking=True)  # else the GPU is waited for
    return torch.where(mask, maps[order], maps)


def mixed(prediction: Prediction, mask: Tensor) -> Prediction:
    """A prediction on weak views, put together as their strong views are: scores at the images' size, no features."""
    return Prediction(with_partners(prediction.resized(mask.shape[-2:]), mask), prediction.align_corners)


def _combined(predictions: list[Prediction], combine: Callable[[Sequence[Tensor]], Tensor]) -> Prediction:
    """One prediction whose every map is made of the same map of the given ones."""

    def of(maps: Sequence[Tensor | None]) -> Tensor | None:
        return None if maps[0] is None else combine(maps)

    first = predictions[0]
    features = {name: of([prediction.features[name] for prediction in predictions]) for name in first.features}
    logits, aux = zip(*((prediction.logits, prediction.aux) for prediction in predictions))
    return Prediction(of(logits), first.align_corners, of(aux), features)


def features_of(name: str, network: nn.Module) -> Features:
    """The feature table of a network for the losses that read it."""
    return Features(
        f"networks.{name}",
        network.channels,
        network.strides,
        norms=network.norms,
        has_aux=network.has_aux,
        measure=network.measure,
    )
