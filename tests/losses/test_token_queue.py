"""The queue of image vectors: its order, its state, and what several processes see of it."""

import pytest
import torch
import torch.nn.functional as F
from recorded.arrays import prediction

from segkd.losses import token_queue
from segkd.losses._task import Features, Task
from segkd.losses.token_queue import TokenQueue

TASK = Task(3, 255, Features("student", {"stage4": 4}, {}), Features("teacher", {"stage4": 6}, {}))


def batch(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(prediction(stage4=torch.randn(size, c, 2, 3, generator=generator)) for c in (4, 6))


def vectors(teacher):
    return F.normalize(teacher.features["stage4"].mean((2, 3)), dim=1)


def test_the_newest_come_first_and_nothing_is_added_in_eval_mode():
    loss, batches = TokenQueue(TASK, feature="stage4", queue=5), [batch(2, seed) for seed in range(3)]
    for student, teacher in batches[:2]:
        loss(student, teacher, None)
    older, newer = (vectors(teacher) for _, teacher in batches[:2])
    torch.testing.assert_close(loss.queue, torch.cat([newer, older, torch.zeros(1, 6)]))
    before = loss.queue.clone()
    loss.eval()(*batches[2], None)
    torch.testing.assert_close(loss.queue, before)


def test_the_batches_of_all_processes_enter(monkeypatch):
    (student, teacher), (_, other) = batch(2, 0), batch(2, 1)
    loss = TokenQueue(TASK, feature="stage4", queue=4)
    monkeypatch.setattr(token_queue, "gather", lambda x: [x, vectors(other)])
    loss(student, teacher, None)
    torch.testing.assert_close(loss.queue, torch.cat([vectors(teacher), vectors(other)]))


def test_a_saved_queue_of_another_size_is_refused():
    loss = TokenQueue(TASK, feature="stage4", queue=3)
    loss(*batch(2, 0), None)
    with pytest.raises(ValueError, match="the saved queue has 3 vectors, this one 4; keep the loss's args"):
        TokenQueue(TASK, feature="stage4", queue=4).load_state_dict(loss.state_dict())
