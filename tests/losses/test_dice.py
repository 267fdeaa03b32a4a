"""Dice against the overlap of hard predictions and against a bare loop over pixels."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.dice import Dice

CLASSES, IGNORE = 4, 255
TASK = Task(CLASSES, IGNORE, Features("student", {}, {}))


def labels():
    """Labels of three images without class 3, some ignored, in the last all of them."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (3, 5, 6), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    target[0][target[0] == 2], target[2] = 1, IGNORE  # class 2 is in the second image alone
    return target


def by_loop(probability, target, classes, smooth):
    """One minus the mean Dice of one image, (K, H, W)."""
    terms = []
    for c in range(CLASSES):
        overlap = size = label = 0.0
        for y, x in (target != IGNORE).nonzero().tolist():
            overlap += probability[c, y, x] * (target[y, x] == c)
            size += probability[c, y, x]
            label += float(target[y, x] == c)
        if (classes == "all" and (target != IGNORE).any()) or label:
            terms.append(1 - (2 * overlap + smooth) / (size + label + smooth))
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize("classes", ["present", "all"])
def test_numbers_are_those_of_a_bare_loop(classes):
    target = labels()
    logits = 2 * torch.randn(3, CLASSES, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    probability = logits.softmax(1)
    each = [by_loop(p, t, classes, 0.5) for p, t in zip(probability, target)]
    value = Dice(TASK, classes=classes, per_image=True, smooth=0.5)(prediction(logits), None, target)
    assert value.item() == pytest.approx(sum(map(float, each)) / 3)
    whole = by_loop(torch.cat([*probability], 1), torch.cat([*target]), classes, 0.5)
    value = Dice(TASK, classes=classes, smooth=0.5)(prediction(logits), None, target)
    assert value.item() == pytest.approx(float(whole))


def test_a_sure_prediction_has_the_dice_of_its_label_map():
    target = labels()
    said = torch.where(target == IGNORE, 0, (target + (torch.arange(6) < 2)) % CLASSES)
    logits = 1e4 * torch.nn.functional.one_hot(said, CLASSES).permute(0, 3, 1, 2).double()
    valid, terms = target != IGNORE, []
    for c in range(3):
        is_said, is_label = (said == c) & valid, target == c
        terms.append(1 - 2 * (is_said & is_label).sum() / (is_said.sum() + is_label.sum()))
    value = Dice(TASK, smooth=1e-6)(prediction(logits), None, target)
    assert value.item() == pytest.approx(sum(terms).item() / 3, abs=1e-6)
    right = 1e4 * torch.nn.functional.one_hot(target.clamp_max(3), CLASSES).permute(0, 3, 1, 2).double()
    assert Dice(TASK)(prediction(right), None, target) == 0


def test_the_auxiliary_head_is_added_and_scores_come_to_the_labels_size():
    target = labels()
    small, aux = (torch.randn(3, CLASSES, 3, 3) for _ in range(2))
    alone = [Dice(TASK)(prediction(scores), None, target) for scores in (small, aux)]
    both = Dice(TASK, aux_weight=0.3)(prediction(small, aux=aux), None, target)
    torch.testing.assert_close(both, alone[0] + 0.3 * alone[1])
