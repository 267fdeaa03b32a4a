"""Weights of classes that are rare: given, or from how often each occurs in the training labels."""

import typing
from typing import Literal

import torch
from torch import Tensor

from ._task import LabelCounts, Task, Weight

# the 19 weights TriKD uses under OHEM, handed down from earlier codes
CITYSCAPES_WEIGHTS = [
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
]  # fmt: skip

Rule = Literal["auto", "median_frequency", "inverse_log", "inverse_sqrt", "effective_number"]
ClassWeights = list[Weight] | Literal["cityscapes", Rule] | None


def weights_of(given: ClassWeights, task: Task, loss: str) -> Tensor | None:
    """(K,) weights, None without any; 1 each where nothing is known of the labels.

    Args:
        given: K numbers, `cityscapes` for the usual 19, or a rule, `auto` being `median_frequency`, see `weights_by`.
        loss: whose they are, for the error.

    Raises:
        ValueError: not one for each class, or 0 for all of them.
    """
    if given is None:
        return None
    if is_rule(given):
        counts = task.label_counts and task.label_counts()
        return torch.ones(task.num_classes) if counts is None else weights_by(given, counts)
    weights = CITYSCAPES_WEIGHTS if given == "cityscapes" else given
    if len(weights) != task.num_classes:
        raise ValueError(f"{loss}: {len(weights)} class_weights given for {task.num_classes} classes")
    if not any(weights):
        raise ValueError(f"{loss}: class_weights are 0 for every class, so it would train nothing; give one a weight")
    return torch.tensor(weights)


def is_rule(given: ClassWeights) -> bool:
    """Whether class weights follow from how often the classes occur."""
    return given in typing.get_args(Rule)


def weights_by(rule: Rule, counts: LabelCounts) -> Tensor:
    """(K,) weights by a rule; a class that never occurs has 1.

        median_frequency:  w_c = median(f) / f_c,  f_c = pixels of c / pixels of the images that show c
        inverse_log:       w_c = 1 / ln(1.02 + p_c),  p_c = pixels of c / all pixels
        inverse_sqrt:      w_c ~ 1 / sqrt(p_c),  with a mean of 1 over the pixels
        effective_number:  w_c ~ (1 - b) / (1 - b^n_c),  b = (N - 1) / N,  with a mean of 1 over the classes that occur

    n_c of N images show c. Sources: Eigen and Fergus, ICCV 2015, arXiv 1411.4734, section 6.3.2; Paszke et al., "ENet",
    2016, arXiv 1606.02147, section 5.2; inverse_sqrt is half way, in the logarithm, between no weights and
    1 / p_c; Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, arXiv 1901.05555, whose
    samples are images of one class, where here an image is one of each that it shows.
    """
    pixels, images, around = (
        torch.tensor(numbers, dtype=torch.float64)
        for numbers in (counts.pixels, counts.images, counts.pixels_of_images)
    )
    occurs = pixels > 0
    if rule == "inverse_log":
        weights = 1 / torch.log(1.02 + pixels / pixels.sum())
    elif rule == "inverse_sqrt":
        share = pixels / pixels.sum()
        weights = share.rsqrt() / share.sqrt().sum()
    elif rule == "effective_number":
        decay = (counts.total_images - 1) / counts.total_images
        weights = (1 - decay) / (1 - decay**images)
        weights = weights / weights[occurs].mean()
    else:
        frequency = pixels / around
        weights = frequency[occurs].quantile(0.5) / frequency
    return weights.where(occurs, 1.0).float()
