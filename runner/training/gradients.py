"""How hard each term pulls at its network, and whether it pulls the way the cross entropy does."""

import torch
from torch import Tensor

from segkd.runner.building.graph import Graph


def gradient_report(graph: Graph, losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, float]:
    """`gradient/<name>`: norm of the weighted term's gradient; `cosine/<name>`: its cosine to the cross entropy's.

    Both are taken at the logits of the network the term trains or, for a term that does not reach them, at the features
    it reads: what is upstream is never run through. Leaves the autograd graph and all `.grad` as they were, so it may
    stand between a forward and its backward.

    Args:
        graph: must have kept the predictions of the forward that gave the losses.
        weights: term label -> weight at this iteration.
    """
    terms = {term.label: term for term in graph.terms}
    references = {term.of: name for name, term in terms.items() if is_cross_entropy(graph, name) and name in losses}
    report, found = {}, {}
    for name, loss in losses.items():
        label = name.partition("/")[0]
        prediction, reference = graph.kept[label][0], references.get(terms[label].of)
        places = [prediction.logits] if _reaches(loss, prediction.logits) else list(prediction.features.values())
        gradient = _gradient(loss, places)
        report[f"gradient/{name}"] = abs(weights[label]) * gradient.norm().item()
        sees_the_same = reference is not None and graph.kept[reference][0] is prediction
        if sees_the_same and reference != name:
            key = (reference, *map(id, places))
            if key not in found:
                found[key] = _gradient(losses[reference], places)
            report[f"cosine/{name}"] = torch.nn.functional.cosine_similarity(gradient, found[key], dim=0).item()
    return report


def is_cross_entropy(graph: Graph, label: str) -> bool:
    """Whether a term is the one the others are compared with."""
    return type(graph.losses[label]).__name__ == "CrossEntropy"


def _reaches(loss: Tensor, place: Tensor) -> bool:
    return (
        loss.requires_grad
        and place.requires_grad
        and torch.autograd.grad(loss, place, retain_graph=True, allow_unused=True)[0] is not None
    )


def _gradient(loss: Tensor, places: list[Tensor]) -> Tensor:
    """The loss's gradient at the places, as one float32 vector; zeros where it does not depend on them."""
    places = [place for place in places if place.requires_grad]
    if not places or not loss.requires_grad:
        return torch.zeros(1, device=loss.device)
    gradients = torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(place, dtype=torch.float32).flatten() if gradient is None else gradient.float().flatten()
            for place, gradient in zip(places, gradients)
        ]
    )
