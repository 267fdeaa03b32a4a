"""Lovasz-Softmax against its definition as an extension of a set function, and against the IoU of hard predictions."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.lovasz import Lovasz

CLASSES, IGNORE = 4, 255
TASK = Task(CLASSES, IGNORE, Features("student", {}, {}))


def jaccard_loss(wrong, label):
    """One minus the IoU of a class whose label is `label`, where the pixels `wrong` are mistaken, both as sets."""
    return len(wrong) / len(label | wrong) if wrong else 0.0


def by_definition(probability, target, classes):
    """Mean over classes of the Lovasz extension of `jaccard_loss`, for (K, N) probabilities and (N,) labels."""
    counted, terms = (target != IGNORE).nonzero()[:, 0].tolist(), []
    for c in range(CLASSES):
        label = {n for n in counted if target[n] == c}
        if classes == "present" and not label:
            continue
        error = {n: float(1 - probability[c, n] if n in label else probability[c, n]) for n in counted}
        before, value, wrong = 0.0, 0.0, set()
        for n in sorted(counted, key=error.get, reverse=True):
            wrong.add(n)
            after = jaccard_loss(wrong, label)
            value, before = value + error[n] * (after - before), after
        terms.append(value)
    return sum(terms) / max(len(terms), 1)


def inputs():
    """Scores and labels without class 3, some ignored, in the last image all of them."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, CLASSES, 4, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (3, 4, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    target[2] = IGNORE
    return logits, target


@pytest.mark.parametrize("classes", ["present", "all"])
def test_numbers_are_those_of_the_definition(classes):
    logits, target = inputs()
    images, labels = logits.softmax(1).flatten(2), target.flatten(1)
    each = [by_definition(*pixels, classes) if (pixels[1] != IGNORE).any() else 0 for pixels in zip(images, labels)]
    value = Lovasz(TASK, classes=classes, per_image=True)(prediction(logits), None, target)
    assert value.item() == pytest.approx(sum(each) / 3)
    whole = by_definition(torch.cat([*images], 1), labels.flatten(), classes)
    value = Lovasz(TASK, classes=classes)(prediction(logits), None, target)
    assert value.item() == pytest.approx(whole)


def test_a_sure_prediction_has_one_minus_the_iou_of_its_label_map():
    _, target = inputs()
    said = torch.where(target == IGNORE, 0, (target + (torch.arange(5) < 2)) % CLASSES)
    logits = 1e4 * torch.nn.functional.one_hot(said, CLASSES).permute(0, 3, 1, 2).double()
    valid, terms = target != IGNORE, []
    for c in range(3):
        is_said, is_label = (said == c) & valid, target == c
        terms.append(1 - (is_said & is_label).sum() / (is_said | is_label).sum())
    value = Lovasz(TASK)(prediction(logits), None, target)
    assert value.item() == pytest.approx(sum(terms).item() / 3)


def test_float32_agrees_with_float64_on_many_pixels():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, CLASSES, 200, 200, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randint(CLASSES, (2, 200, 200), generator=generator)
    half = logits.detach().float().requires_grad_()
    values = [Lovasz(TASK)(prediction(scores), None, target) for scores in (logits, half)]
    gradients = [torch.autograd.grad(value, scores)[0] for value, scores in zip(values, (logits, half))]
    torch.testing.assert_close(values[1].double(), values[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients[1].double(), gradients[0], rtol=1e-3, atol=1e-9)
