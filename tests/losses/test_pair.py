"""What two maps a loss compares, and how they come to one size."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkd.losses._pair import Pair
from segkd.losses._task import Features, Task


def make_task():
    return Task(3, 255, Features("student", {"head": 4}, {}), Features("teacher", {"head": 6, "neck": 5}, {}))


def prediction(height, width, seed, align_corners=False, **channels):
    generator = torch.Generator().manual_seed(seed)
    features = {name: torch.randn(2, c, height, width, generator=generator) for name, c in channels.items()}
    return SimpleNamespace(logits=torch.randn(2, 3, height, width), align_corners=align_corners, features=features)


def test_names_channels_and_what_the_networks_must_keep():
    for names, wanted in ((("head",), (4, 6)), (("head", "neck"), (4, 5)), ((None,), (3, 3)), (("logits",), (3, 3))):
        task = make_task()
        pair = Pair(task, *names)
        assert (pair.student_channels, pair.teacher_channels) == wanted
        kept = set() if pair.student == "logits" else {pair.student}
        assert task.student.wanted == kept
    assert Pair(make_task(), "head", "logits").teacher_channels == 3


def test_auxiliary_scores_are_asked_for():
    task = make_task()
    with pytest.raises(ValueError, match="student has no auxiliary head"):
        Pair(task, "aux")
    task = Task(3, 255, Features("student", {}, {}, has_aux=True), Features("teacher", {}, {}, has_aux=True))
    assert Pair(task, "aux").teacher_channels == 3
    assert task.teacher.wanted == {"aux"}
    student, teacher = prediction(3, 4, 0), prediction(3, 4, 1)
    student.aux, teacher.aux = torch.ones(2, 3, 3, 4), torch.zeros(2, 3, 3, 4)
    assert Pair(task, "aux").maps(student, teacher)[1] is teacher.aux


@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_have_the_size_of_the_teacher(align_corners):
    student, teacher = prediction(3, 4, 0, align_corners, head=4), prediction(6, 5, 1, head=6)
    guess, goal = Pair(make_task(), "head").maps(student, teacher)
    wanted = F.interpolate(student.features["head"], size=(6, 5), mode="bilinear", align_corners=align_corners)
    assert goal is teacher.features["head"]
    torch.testing.assert_close(guess, wanted)
    adapter = nn.Conv2d(4, 6, 1)
    torch.testing.assert_close(Pair(make_task(), "head").maps(student, teacher, adapter)[0], adapter(wanted))


def test_half_types_are_raised():
    student, teacher = prediction(3, 4, 0, head=4), prediction(3, 4, 1, head=6)
    student.features["head"] = student.features["head"].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = Pair(make_task(), "head").maps(student, teacher, nn.Conv2d(4, 6, 1))
    assert [x.dtype for x in maps] == [torch.float32, torch.float32]


def test_a_feature_that_is_not_there():
    with pytest.raises(ValueError, match="teacher has no feature 'stage3'; it has: head, neck"):
        Pair(make_task(), "head", "stage3")
