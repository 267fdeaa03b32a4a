"""CIRKD's memory terms: which vectors go into the memories, and which come out."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.cirkd_memory import CIRKDMemory

CLASSES, IGNORE = 4, 255


def make_loss(**options):
    torch.manual_seed(0)
    features = Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {})
    sizes = {"pixel_memory": 11, "region_memory": 3, "pixel_contrast": 9, "region_contrast": 5, "pixels_per_class": 4}
    return CIRKDMemory(Task(CLASSES, IGNORE, *features), **(sizes | options))


def labels():
    """Class 3 is absent."""
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(3, (2, 4, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    return target


def parts_of(loss, teacher=None, target=None):
    """The parts for a random student and a teacher of (2, 5, 4, 5)."""
    maps = torch.randn(2, 3, 4, 5), torch.randn(2, 5, 4, 5) if teacher is None else teacher
    student, teacher = (prediction(head=x) for x in maps)
    return loss(student, teacher, labels() if target is None else target)


def test_random_pixels_come_from_their_class():
    """Teacher pixels that point where their class does stay where they belong; ignored ones are nowhere."""
    loss, target = make_loss(), labels()
    directions = torch.eye(5)[target.where(target != IGNORE, 4)].permute(0, 3, 1, 2)
    for _ in range(4):
        parts_of(loss, directions, target)
    for memory in loss.memories.values():
        for label in range(3):
            written = memory.vectors[label, : memory.filled[label]]
            assert len(written) and torch.equal(written, torch.eye(5)[[label] * len(written)])
        assert memory.filled[3] == 0


def test_legacy_reads_the_first_pixels_of_the_map_for_any_class():
    loss, target, teacher = make_loss(enqueue="legacy"), labels()[:1], torch.randn(1, 5, 4, 5)
    loss.draw = lambda image, label, count: torch.arange(count)
    student, goal = (prediction(head=x) for x in (teacher[:, :3], teacher))
    loss(student, goal, target)
    pixels = F.normalize(teacher, dim=1)[0].flatten(1).T  # (N, C)
    memory = loss.memories["pixel"]
    for label in range(3):
        count = min(4, int((target == label).sum()))
        assert memory.filled[label] == count
        torch.testing.assert_close(memory.vectors[label, :count], pixels[:count])


def test_filled_only_leaves_random_vectors_out():
    # every vector written points one way, so that all similarities are equal
    parts = parts_of(make_loss(filled_only=True), torch.ones(2, 5, 4, 5))
    assert all(part.item() == pytest.approx(0, abs=1e-6) for part in parts.values())


def test_nothing_is_written_in_eval_mode_nor_of_ignored_pixels():
    for loss, target in ((make_loss().eval(), labels()), (make_loss(), torch.full((2, 4, 5), IGNORE))):
        parts_of(loss, target=target)
        assert all(memory.filled == [0] * CLASSES for memory in loss.memories.values())
