"""Means without some classes, from the scores of all."""

import pytest
import torch

from segkd.runner.scoring.metrics._metric import Split
from segkd.runner.scoring.metrics.confusion import confusion_matrix, scores
from segkd.runner.scoring.metrics.foreground import Foreground

SPLIT = Split(("background", "cat", "dog", "ghost"))


@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("leave_out, kept", [(None, [1, 2, 3]), (("background", "dog"), [1, 3])])
def test_the_means_are_over_the_other_classes(absent, leave_out, kept):
    draw = torch.Generator().manual_seed(0)
    target, prediction = torch.randint(3, (2, 2, 9, 9), generator=draw)
    metric = Foreground(Split(SPLIT.class_names, absent=absent), leave_out=leave_out)
    values = metric.values(metric.count(None, prediction, target))
    every = scores(confusion_matrix(prediction, target, 4, 255), absent)
    for name, per_class in (("foreground_miou", "iou_per_class"), ("foreground_dice", "dice_per_class")):
        found = [every[per_class][index] for index in kept]
        found = [value for value in found if value == value]
        assert values[name] == pytest.approx(sum(found) / len(found))
    assert metric.text(values).startswith(f"without {', '.join(leave_out or ['background'])}: mIoU ")


def test_classes_that_are_not_there():
    with pytest.raises(ValueError, match="no class 'horse'; there are: background, cat, dog, ghost"):
        Foreground(SPLIT, leave_out=("horse",))
    with pytest.raises(ValueError, match="no class is left"):
        Foreground(SPLIT, leave_out=SPLIT.class_names)
