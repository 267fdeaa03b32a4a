"""Cross pseudo labels against torch's cross entropy with the likeliest classes."""

import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.cross_pseudo import CrossPseudo

TASK = Task(4, 255, Features("student", {}, {}), Features("teacher", {}, {}))


def random_prediction(seed, height, width, align_corners=True):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, height, width, generator=generator, dtype=torch.float64)
    return prediction(logits, align_corners)


def test_value_at_label_size():
    student, teacher = random_prediction(0, 3, 4), random_prediction(1, 2, 3, align_corners=False)
    scores = F.interpolate(student.logits, size=(6, 5), mode="bilinear", align_corners=True)
    classes = F.interpolate(teacher.logits, size=(6, 5), mode="bilinear", align_corners=False).argmax(1)
    value = CrossPseudo(TASK)(student, teacher, torch.full((2, 6, 5), 255))
    torch.testing.assert_close(value, F.cross_entropy(scores, classes))


def test_mask_leaves_the_padding_out():
    student, teacher = random_prediction(0, 3, 5), random_prediction(1, 3, 5)
    target = torch.zeros(2, 3, 5, dtype=torch.int64)
    target[0, :, 3:] = 255
    classes = teacher.logits.argmax(1).where(target != 255, -100)
    value = CrossPseudo(TASK, mask_ignored=True)(student, teacher, target)
    torch.testing.assert_close(value, F.cross_entropy(student.logits, classes))
