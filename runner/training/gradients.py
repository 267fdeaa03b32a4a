"""How hard each term pulls at its network, and whether it pulls the way the cross entropy does."""

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.runner.building.graph import Graph


def gradient_report(
    graph: Graph, losses: dict[str, Tensor], weights: dict[str, float], scale: float = 1.0
) -> dict[str, float]:
    """`gradient/<name>`: norm of the weighted term's gradient; `cosine/<name>`: its cosine to the cross entropy's.

    Both are taken at the logits of the network the term trains or, for a term that does not reach them, at the auxiliary
    scores or the features it reads; without a cosine where the cross entropy does not reach those. What is upstream is
    never run through. Leaves the autograd graph and all `.grad` as they were, so it may stand between a forward and its
    backward.

    Args:
        graph: must have kept the predictions of the forward that gave the losses.
        weights: term label -> weight at this iteration. scale: what losses are multiplied by on their way back, so that
            small gradients in float16 are not 0, as those of the step are.
    """
    terms = {term.label: term for term in graph.terms}
    references: dict[str, str] = {}
    for label, term in terms.items():  # the first of a network that reads its scores, beside those of further heads
        loss = graph.losses[label]
        if type(loss).__name__ == "CrossEntropy" and label in losses and loss.scores in (None, "logits"):
            references.setdefault(term.of, label)
    report, found = {}, {}
    for name, loss in losses.items():
        label = name.partition("/")[0]
        prediction, reference = graph.kept[label][0], references.get(terms[label].of)
        # auxiliary scores before the features they are made of
        for places in ([prediction.logits], [prediction.aux], list(prediction.features.values())):
            gradient = _gradient(loss, places, scale)
            if gradient is not None:
                break
        report[f"gradient/{name}"] = 0.0 if gradient is None else abs(weights[label]) * gradient.norm().item()
        sees_the_same = reference is not None and graph.kept[reference][0] is prediction
        if sees_the_same and reference != name:
            key = (reference, *map(id, places))
            if key not in found:
                found[key] = _gradient(losses[reference], places, scale)
            both = [gradient, found[key]]
            if all(one is not None for one in both):
                report[f"cosine/{name}"] = F.cosine_similarity(*both, dim=0).item()
    return report


def _gradient(loss: Tensor, places: list[Tensor | None], scale: float) -> Tensor | None:
    """The loss's gradient at the places, as one float32 vector; None where it depends on none of them."""
    places = [place for place in places if place is not None and place.requires_grad]
    if not places or not loss.requires_grad:
        return None
    gradients = torch.autograd.grad(scale * loss, places, retain_graph=True, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        return None
    flat = torch.cat([
        torch.zeros_like(place, dtype=torch.float32).flatten() if gradient is None else gradient.float().flatten()
        for place, gradient in zip(places, gradients)
    ])  # fmt: skip
    return flat / scale
