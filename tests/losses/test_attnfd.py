"""AttnFD: what its distance is blind to, what is trained of it, and where features do not fit."""

import pytest
import torch
from recorded.arrays import prediction

from segkd.losses._task import Features, Task
from segkd.losses.attnfd import AttnFD

TASK = Task(3, 255, Features("student", {"head": 8}, {}), Features("teacher", {"head": 6, "neck": 8}, {}))


def make_loss(**options):
    torch.manual_seed(0)
    return AttnFD(TASK, **{"features": ["head"], "reduction": 2, **options}).double()


def test_the_scale_of_the_connector_does_not_count():
    loss, other = make_loss(), make_loss()
    pair = prediction(head=torch.randn(2, 8, 4, 5).double()), prediction(head=torch.randn(2, 6, 4, 5).double())
    with torch.no_grad():
        other.connectors[0][1].weight *= 7
    value = loss(*pair, None)
    torch.testing.assert_close(value, other(*pair, None))
    assert 0 < value < 4 / 2


def test_learned_gates_of_the_teacher_are_saved_but_not_trained():
    loss = make_loss(teacher_gate="learned")
    assert not any(parameter.requires_grad for parameter in loss.teacher_gates.parameters())
    assert {name.split(".")[0] for name in loss.state_dict()} == {"student_gates", "teacher_gates", "connectors"}
    assert make_loss().teacher_gates is None


def test_features_that_do_not_fit():
    with pytest.raises(ValueError, match="features and teacher_features must be as many; got 1 and 2"):
        make_loss(teacher_features=["head", "neck"])
    with pytest.raises(ValueError, match="reduction 9 leaves nothing of a feature of 8 channels"):
        make_loss(reduction=9)
    with pytest.raises(ValueError, match="reduction 7 leaves nothing of a feature of 6 channels"):
        make_loss(reduction=7, teacher_gate="learned")
