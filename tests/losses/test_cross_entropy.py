"""Cross entropy against PyTorch's own and against hard-pixel rules written as plain loops over sorted pixels."""

import math

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._class_weights import CITYSCAPES_WEIGHTS
from segkd.losses._task import Features, Task
from segkd.losses.cross_entropy import CrossEntropy

CLASSES, IGNORE = 5, 255
TASK = Task(CLASSES, IGNORE, Features("student", {}, {}))


def make(batch=2, height=6, width=7, classes=CLASSES, seed=0, ignored=0.2):
    """Logits at label size and labels, some of them ignored, in float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (batch, height, width), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORE
    return logits, target


def hard_by_loop(logits, target, min_kept, threshold, rule):
    """The pixels a rule keeps, as (image, row, column), found by sorting Python tuples."""
    probability = logits.softmax(1)
    places = [tuple(place) for place in (target != IGNORE).nonzero().tolist()]
    pixels = sorted((probability[b, target[b, y, x], y, x].item(), (b, y, x)) for b, y, x in places)
    budget = min_kept * len(target) if rule == "image" else min_kept
    if rule == "largest":
        above = [place for p, place in pixels if threshold is not None and p < threshold]
        return {place for _, place in pixels[: max(len(above), budget)]}
    if threshold is None:
        return {place for _, place in pixels[:budget]}
    if rule == "batch":
        if budget == 0 or budget > len(pixels):
            return {place for _, place in pixels}
        bound = max(threshold, pixels[budget - 1][0])
        return {place for p, place in pixels if p <= bound + 1e-12}
    bound = max(threshold, pixels[min(budget, len(pixels) - 1)][0])
    return {place for p, place in pixels if p < bound - 1e-12}


def test_plain_is_torch_mean_over_counted_pixels():
    logits, target = make()
    loss = CrossEntropy(TASK)(prediction(logits), None, target)
    torch.testing.assert_close(loss, F.cross_entropy(logits, target, ignore_index=IGNORE))


@pytest.mark.parametrize("align_corners", [False, True])
def test_resizes_by_the_family_rule_and_adds_the_auxiliary_head(align_corners):
    logits, target = make(height=11, width=9)
    small, aux = torch.randn(2, CLASSES, 4, 5), torch.randn(2, CLASSES, 3, 3)
    loss = CrossEntropy(TASK, aux_weight=0.3)(prediction(small, align_corners, aux), None, target)
    parts = [
        F.cross_entropy(
            F.interpolate(x, size=(11, 9), mode="bilinear", align_corners=align_corners), target, ignore_index=IGNORE
        )
        for x in (small, aux)
    ]
    torch.testing.assert_close(loss, parts[0] + 0.3 * parts[1])


def test_divisors_and_class_weights():
    logits, target = make(batch=3)
    weights = [0.5, 2.0, 1.0, 0.1, 3.0]
    tensor = torch.tensor(weights, dtype=torch.float64)
    mean = F.cross_entropy(logits, target, weight=tensor, ignore_index=IGNORE)
    total = F.cross_entropy(logits, target, weight=tensor, ignore_index=IGNORE, reduction="sum")
    for divisor, wanted in (("valid", mean), ("all", total / target.numel()), ("valid_x_batch", mean / 3)):
        loss = CrossEntropy(TASK, class_weights=weights, divisor=divisor)(prediction(logits), None, target)
        torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)  # the weights are held in float32


def test_cityscapes_weights_need_19_classes():
    assert len(CITYSCAPES_WEIGHTS) == 19
    task = Task(19, IGNORE, Features("student", {}, {}))
    logits, target = make(classes=19)
    loss = CrossEntropy(task, class_weights="cityscapes")(prediction(logits), None, target)
    wanted = F.cross_entropy(logits, target, torch.tensor(CITYSCAPES_WEIGHTS).double(), ignore_index=IGNORE)
    torch.testing.assert_close(loss, wanted)
    with pytest.raises(ValueError, match="19 class_weights given for 5 classes"):
        CrossEntropy(TASK, class_weights="cityscapes")


@pytest.mark.parametrize("rule", ["batch", "image", "strict", "largest"])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.7, None])
@pytest.mark.parametrize("min_kept", [0, 1, 9, 30, 66, 68, 10_000])
def test_hard_pixels_are_those_of_the_loop(rule, threshold, min_kept):
    logits, target = make(seed=min_kept)
    loss = CrossEntropy(TASK, ohem_min_kept=min_kept, ohem_threshold=threshold, ohem_rule=rule, divisor="all")
    ce = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none").detach()
    wanted = hard_by_loop(logits, target, min_kept, threshold, rule)
    kept = loss.hard_pixels(ce, target != IGNORE)
    if rule == "largest":  # ignored ones fill up the rest of it
        assert kept.sum() == min(max(len(wanted), min_kept), target.numel())
        kept &= target != IGNORE
    assert {tuple(place) for place in kept.nonzero().tolist()} == wanted
    value = loss(prediction(logits), None, target)
    by_hand = sum(ce[place].item() for place in wanted) / target.numel()
    assert value.item() == pytest.approx(by_hand, rel=1e-12)


def test_min_kept_without_a_threshold_is_exact_under_ties():
    loss = CrossEntropy(TASK, ohem_min_kept=3, ohem_threshold=None)
    ce = torch.tensor([[[2.0, 1.0, 2.0, 2.0, 2.0, 0.5]]])
    valid = torch.tensor([[[True, True, False, True, True, True]]])
    assert loss.hard_pixels(ce, valid).int().flatten().tolist() == [1, 0, 0, 1, 1, 0]
    loss.ohem_min_kept = 2
    assert loss.hard_pixels(ce, valid).int().flatten().tolist() == [1, 0, 0, 1, 0, 0]


def test_valid_divisor_under_ohem_is_the_weighted_mean_of_the_kept():
    logits, target = make()
    weights = [0.5, 2.0, 1.0, 0.25, 3.0]
    loss = CrossEntropy(TASK, class_weights=weights, ohem_min_kept=10, ohem_threshold=0.2)
    kept = hard_by_loop(logits, target, 10, 0.2, "batch")
    ce = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    total = sum(weights[target[place]] * ce[place].item() for place in kept)
    wanted = total / sum(weights[target[place]] for place in kept)
    assert loss(prediction(logits), None, target).item() == pytest.approx(wanted, rel=1e-12)


def test_a_share_of_the_valid_pixels_is_kept_and_counted():
    logits, target = make(batch=3)
    share = CrossEntropy(TASK, ohem_rule="largest", ohem_min_share=0.25, ohem_threshold=1e-6, divisor="count")
    ce = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    kept = ce.flatten().sort(descending=True).values[: int((target != IGNORE).sum()) // 4]
    torch.testing.assert_close(share(prediction(logits), None, target), kept.mean())
    weighted = CrossEntropy(TASK, divisor="count", class_weights=[2.0] * CLASSES)
    torch.testing.assert_close(
        weighted(prediction(logits), None, target), 2 * F.cross_entropy(logits, target, ignore_index=IGNORE)
    )
    for options in ({"ohem_min_kept": 3}, {"ohem_rule": "strict"}):
        with pytest.raises(ValueError, match="ohem_min_share is for ohem_rule: largest, and in place of"):
            CrossEntropy(TASK, **{"ohem_rule": "largest", "ohem_min_share": 0.1} | options)


def test_one_map_of_scores_alone():
    logits, target = make()
    task = Task(CLASSES, IGNORE, Features("student", {"aux16": CLASSES, "head": 8}, {}, has_aux=True))
    student = prediction(logits, False, logits + 1, aux16=logits.roll(1, 1))
    for name, scores in (("logits", student.logits), ("aux", student.aux), ("aux16", student.features["aux16"])):
        loss = CrossEntropy(task, scores=name)(student, None, target)
        torch.testing.assert_close(loss, F.cross_entropy(scores, target, ignore_index=IGNORE))
    assert task.student.wanted == {"aux", "aux16"}
    with pytest.raises(ValueError, match="head has 8 channels and not one for each class"):
        CrossEntropy(task, scores="head")
    with pytest.raises(ValueError, match="student has no auxiliary head"):
        CrossEntropy(TASK, scores="aux")


def test_focal_factor_is_on_the_average():
    logits, target = make()
    mean = F.cross_entropy(logits, target, ignore_index=IGNORE).item()
    loss = CrossEntropy(TASK, divisor="valid_x_batch", focal_gamma=2.0, focal_alpha=0.5)
    wanted = 0.5 * (1 - math.exp(-mean)) ** 2 * mean / len(target)
    assert loss(prediction(logits), None, target).item() == pytest.approx(wanted, rel=1e-12)


def test_what_is_predicted_on_ignored_pixels_does_not_matter():
    logits, target = make()
    changed = torch.where((target == IGNORE)[:, None], torch.full_like(logits, 9.0), logits)
    for options in ({}, {"divisor": "all"}, {"ohem_min_kept": 4}, {"ohem_min_kept": 4, "ohem_rule": "image"}):
        loss = CrossEntropy(TASK, **options)
        torch.testing.assert_close(loss(prediction(changed), None, target), loss(prediction(logits), None, target))


@pytest.mark.parametrize("options", [
    {"class_weights": [0.0] + [1.0] * (CLASSES - 1)},
    {"ohem_rule": "strict", "ohem_min_kept": 0, "divisor": "count"},
    {"ohem_rule": "largest", "ohem_min_share": 0.01, "divisor": "count"},
])  # fmt: skip
def test_nothing_that_counts_gives_no_gradient_however_large_the_scale(options):
    """Valid pixels are there, of a class of weight 0 or too sure for the rule; fp16 starts at 65536."""
    logits = torch.zeros(1, CLASSES, 4, 4)
    logits[:, 0] = 30.0
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    logits.requires_grad_()
    loss = CrossEntropy(TASK, **options)(prediction(logits), None, target)
    (65536 * loss).backward()
    assert loss == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("arguments, told", [
    ({"ohem_rule": "largest", "ohem_threshold": 0.3}, "ohem_rule and ohem_threshold mine nothing"),
    ({"focal_alpha": 0.25}, "focal_alpha does nothing"), ({"ohem_rule": "largest", "ohem_min_kept": 4}, ""),
])  # fmt: skip
def test_arguments_that_do_nothing_are_told(arguments, told, caplog):
    CrossEntropy(TASK, **arguments)
    assert told in caplog.text and bool(caplog.records) == bool(told)
