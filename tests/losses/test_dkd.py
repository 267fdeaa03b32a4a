"""Decoupled channel distillation of images without labels, and the ranges of labels that a class stands for."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.cwd import CWD
from segkd.losses.dkd import DKD

TASK = Task(4, 255, Features("student", {}, {}), Features("teacher", {}, {}))


def random_prediction(seed, images=slice(None)):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    return prediction(logits[images])


def labels():
    target = torch.randint(3, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    target[:, 0, :2] = 255
    return target


@pytest.mark.parametrize("softmax_over", ["spatial", "batch_class"])
def test_an_image_without_labels_has_no_segments(softmax_over):
    def segments(target, images=slice(None)):
        given = random_prediction(0, images), random_prediction(1, images), target[images]
        whole, pixels = (DKD(TASK, softmax_over=softmax_over, segment=on)(*given) for on in (True, False))
        return whole - pixels

    target = labels()
    target[1] = 255
    assert segments(target) > 0
    torch.testing.assert_close(segments(target), segments(target, slice(1)) / 2)


@pytest.mark.parametrize("segment", [False, True])
def test_all_ignored_is_channel_wise_distillation(segment):
    given = random_prediction(0), random_prediction(1), torch.full((2, 3, 5), 255)
    torch.testing.assert_close(DKD(TASK, segment=segment)(*given), CWD(TASK)(*given))


def test_ranges_of_labels():
    student, teacher, target = random_prediction(0), random_prediction(1), labels()
    # class 1 stands for the labels 1 to 3, class 2 for the label 4, class 3 for 5 to 9
    loss = DKD(TASK, merge_label=[(0, 0), (1, 3), (4, 4), (5, 9)])
    spread = torch.tensor([0, 2, 4])[target.where(target != 255, 0)].where(target != 255, 255)
    torch.testing.assert_close(loss(student, teacher, spread), DKD(TASK)(student, teacher, target))
    with pytest.raises(ValueError, match="dkd: merge_label holds 2 ranges for 4 classes; one each"):
        DKD(TASK, merge_label=[(0, 1), (2, 3)])
    with pytest.raises(ValueError, match=r"dkd: merge_label holds \(3, 2\), which is no range of label ids"):
        DKD(TASK, merge_label=[(0, 0), (1, 1), (3, 2), (3, 3)])


def test_both_parts_without_a_weight():
    with pytest.raises(ValueError, match="target_weight and rest_weight are both 0"):
        DKD(TASK, target_weight=0.0, rest_weight=0.0)
