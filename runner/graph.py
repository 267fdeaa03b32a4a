"""Networks and loss terms as one module: the only thing optimised, wrapped for several processes and checkpointed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkd.losses._task import Features
from segkd.models._prediction import Prediction
from segkd.runner.schedule import weight_at


@dataclass(frozen=True)
class Term:
    """One edge of the graph: a loss that trains the network `of`, reading `source`, scaled by `weight`.

    Attributes:
        weight: a number, or {start, end, over: (a, b), hold} for a linear ramp.
        after, until: iterations (0-based) between which the term is active, see schedule.weight_at.
        detach: whether gradients stop at the source.
    """

    label: str
    of: str
    source: str | None
    weight: float | dict
    after: int | None = None
    until: int | None = None
    detach: bool = True

    def weight_at(self, iteration: int) -> float:
        """The term's weight at an iteration, 0 while it is not active."""
        return weight_at(self.weight, iteration, self.after, self.until)

    def is_gated(self) -> bool:
        """Whether the term is inactive at some iterations of a run and active at others."""
        ramp_from_zero = isinstance(self.weight, dict) and 0 in (self.weight["start"], self.weight["end"])
        return self.after is not None or self.until is not None or ramp_from_zero

    def is_ever_active(self) -> bool:
        """False where the weight is 0 throughout."""
        return (
            self.weight != 0
            if not isinstance(self.weight, dict)
            else (self.weight["start"], self.weight["end"]) != (0, 0)
        )


class Graph(nn.Module):
    """forward(images, target, iteration) -> {term label: unweighted loss} of the terms active at that iteration.

    A network runs at most once a batch, and only if an active term reads it. Frozen networks are kept out of the
    module tree, hence out of DDP, the optimizer and checkpoints; they run in eval mode and without gradients, under
    whatever autocast the graph runs under.

    Args:
        networks: the trained networks.
        frozen: the others, on the device already.
        terms: the edges. losses: label -> its loss module.

    Attributes:
        keep_predictions: whether the next forwards leave their predictions in `kept`, for whoever looks into a step.

    Raises:
        ValueError: a name that torch.nn.ModuleDict does not take, or with the slash of sub-terms.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        frozen: dict[str, nn.Module],
        terms: list[Term],
        losses: dict[str, nn.Module],
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
        self.keep_predictions = False
        self.kept: dict[str, Prediction] = {}
        for network in frozen.values():
            network.eval().requires_grad_(False)
        self._frozen = (frozen,)  # inside a tuple nn.Module does not see it

    def network(self, name: str) -> nn.Module:
        """A network by its name in the recipe, trained or frozen."""
        return self.networks[name] if name in self.networks else self._frozen[0][name]

    def weights_at(self, iteration: int) -> dict[str, float]:
        """Label -> weight of the terms active at this iteration."""
        return {term.label: term.weight_at(iteration) for term in self.active_terms(iteration)}

    def active_terms(self, iteration: int) -> list[Term]:
        """The terms whose weight is not 0 at this iteration."""
        return [term for term in self.terms if term.weight_at(iteration) != 0]

    def forward(self, images: Tensor, target: Tensor, iteration: int) -> dict[str, Tensor]:
        """images: (B, 3, H, W) uint8. target: (B, H, W) int64. Returns the active terms' unweighted scalars by name."""
        self.kept = {}  # freed before this forward needs its room
        predictions = self.predictions(images, iteration)
        if self.keep_predictions:
            self.kept = predictions
        losses = {}
        for term in self.active_terms(iteration):
            losses.update(self.loss(term, predictions, target))
        return losses

    def predictions(self, images: Tensor, iteration: int) -> dict[str, Prediction]:
        """One forward of each network that an active term reads."""
        terms = self.active_terms(iteration)
        read = dict.fromkeys(name for term in terms for name in (term.of, term.source) if name is not None)
        predictions = {}
        for name in read:
            network = self.network(name)
            if name in self.networks:
                predictions[name] = network(images)
            else:
                with torch.no_grad():
                    predictions[name] = network(images)
        return predictions

    def loss(self, term: Term, predictions: dict[str, Prediction], target: Tensor) -> dict[str, Tensor]:
        """One term's unweighted value under its label; a loss of several sub-terms gives each as label/sub-term."""
        source = None
        if term.source is not None:
            source = predictions[term.source]
            if term.detach and term.source in self.networks:
                source = detached(source)
        value = self.losses[term.label](predictions[term.of], source, target)
        return (
            {f"{term.label}/{part}": loss for part, loss in value.items()}
            if isinstance(value, dict)
            else {term.label: value}
        )

    def adversary_loss(self, label: str) -> Tensor:
        """What a loss's own adversary learns from the kept predictions of the last forward."""
        term = next(term for term in self.terms if term.label == label)
        return self.losses[label].adversary_loss(detached(self.kept[term.of]), detached(self.kept[term.source]))


def weighted(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Each loss times its term's weight; a sub-term `label/name` has its term's."""
    return {name: weights[name.partition("/")[0]] * value for name, value in losses.items()}


def detached(prediction: Prediction) -> Prediction:
    """The prediction with no gradient behind it."""
    return Prediction(
        logits=prediction.logits.detach(),
        align_corners=prediction.align_corners,
        aux=None if prediction.aux is None else prediction.aux.detach(),
        features={name: feature.detach() for name, feature in prediction.features.items()},
    )


def features_of(name: str, network: nn.Module) -> Features:
    """The feature table of a network for the losses that read it."""
    return Features(
        f"networks.{name}",
        network.channels,
        network.strides,
        norms=getattr(network, "norms", {}),
        has_aux=getattr(network, "aux_head", None) is not None,
    )
