"""Relations between the positions of an image: what they ask of the student and what they leave free."""

import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.token_relation import TokenRelation

TASK = Task(3, 255, Features("student", {"stage4": 4}, {}), Features("teacher", {"stage4": 4, "tokens": 6}, {}))


def test_a_rotated_and_scaled_student_is_a_perfect_one():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))
    student = 3 * torch.einsum("dc,bchw->bdhw", rotation, teacher)
    loss = TokenRelation(TASK, feature="stage4", projection="none")
    assert abs(loss(prediction(stage4=student), prediction(stage4=teacher), None)) < 1e-12
    flipped = prediction(stage4=student.flip(3))
    assert loss(flipped, prediction(stage4=teacher), None) > 0.01


def test_images_are_not_compared_with_each_other():
    loss = TokenRelation(TASK, feature="stage4", teacher_feature="tokens")
    student, teacher = torch.randn(3, 4, 2, 3), torch.randn(3, 6, 4, 4)
    alone = [loss(prediction(stage4=s[None]), prediction(tokens=t[None]), None) for s, t in zip(student, teacher)]
    whole = loss(prediction(stage4=student), prediction(tokens=teacher), None)
    torch.testing.assert_close(whole, torch.stack(alone).mean())
