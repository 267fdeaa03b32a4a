"""Which pixels keep their class: by a probability, or the surest share of each class."""

import numpy as np
import pytest
import torch

from segkd.runner.predicting.confident import STEPS, Rule, count_steps, lowest_steps, steps_of


@pytest.fixture
def scores():
    return 3 * torch.randn(2, 5, 30, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("average", ["logits", "softmax"])
def test_a_confidence_is_the_lowest_probability_that_is_kept(scores, average):
    given = scores.softmax(1) if average == "softmax" else scores
    labels = Rule(confidence=0.8).labels(given, None, average)
    for image, label in zip(scores.double().numpy(), labels.numpy()):
        powers = np.exp(image - image.max(0))
        probabilities = powers / powers.sum(0)
        wanted = np.where(probabilities.max(0) >= 0.8, image.argmax(0), 255)
        assert label.dtype == np.uint8 and (label == wanted).mean() > 0.999  # float32 at the threshold
        assert 0.1 < (label == 255).mean() < 0.9


def test_a_share_keeps_the_surest_pixels_of_each_class_over_all_images(scores):
    counts = sum(count_steps(one) for one in scores.split(1))  # of images one by one
    labels = Rule(share=0.3).labels(scores, lowest_steps(counts, 0.3)).numpy()
    probabilities, classes = (one.numpy() for one in scores.double().softmax(1).max(1))
    for k in range(5):
        mine = classes == k
        kept = labels[mine] == k
        assert set(np.unique(labels[mine])) == {k, 255}
        lowest = np.sort(probabilities[mine])[::-1][int(np.ceil(0.3 * mine.sum())) - 1]  # of the share itself
        assert kept[probabilities[mine] >= lowest].all()
        # and no more than those within a step of it
        assert probabilities[mine][kept].min() >= 1 - (1 - lowest) * np.exp(1 / 256) - 1e-6


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_of_a_broken_network_are_one_sentence(scores, value):
    scores[1, 2, 3, 4] = value
    for made in (lambda: count_steps(scores), lambda: Rule(confidence=0.8).labels(scores, None)):
        with pytest.raises(ValueError, match="scores of an image are NaN or infinite, so none can be made of them"):
            made()


def test_steps_are_fine_near_certainty_and_a_class_that_is_never_predicted_counts_nothing():
    steps = steps_of(torch.tensor([0.0, 0.5, 0.999, 0.9999, 1.0]))
    assert steps.tolist() == [0, 177, 1768, 2357, STEPS - 1]
    counts = torch.zeros(2, STEPS, dtype=torch.int64)
    counts[0, 10], counts[0, 20] = 3, 1
    assert lowest_steps(counts, 0.25).tolist() == [20, STEPS - 1]
    assert lowest_steps(counts, 0.26).tolist() == [10, STEPS - 1]
