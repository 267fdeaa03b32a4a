"""The sets of weights in a file: which is taken, what is said, and what no file may hold."""

import logging
import os

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from segkd.models._checkpoints import found_network
from segkd.models._weights import fill, read_part, read_weights

ONE, TWO = {"w": torch.ones(1)}, {"w": torch.full((1,), 2.0)}
ADAM = {"state": {0: {"exp_avg": torch.ones(1), "exp_avg_sq": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}


def read(tmp_path, content, part=None, trust=False):
    torch.save(content, tmp_path / "w.pth")
    return read_part(tmp_path / "w.pth", part, trust=trust)


@pytest.mark.parametrize("content, plain, averaged", [
    ({"model": ONE, "model_ema": TWO, "optimizer": ADAM}, "model", "model_ema"),
    ({"state_dict_ema": TWO, "state_dict": ONE, "epoch": 3}, "state_dict", "state_dict_ema"),
    ({"model": {"module.w": ONE["w"]}, "ema": {"_orig_mod.module.w": TWO["w"]}}, "model", "ema"),
    ({"model": {"state_dict": ONE}, "ema": TWO, "rng": torch.zeros(4)}, "model.state_dict", "ema"),
])  # fmt: skip
def test_part_picks_one_of_several_sets_and_the_log_says_which(tmp_path, content, plain, averaged, caplog):
    with caplog.at_level(logging.INFO):
        state, left = read(tmp_path, content)
        assert (state, left) == (ONE, None) and f"the weights under {plain} are taken" in caplog.text
        state, left = read(tmp_path, content, part=averaged)
    assert (state, left) == (TWO, None) and f"the weights under {averaged} are taken" in caplog.text


def test_sets_without_a_usual_name_are_asked_for(tmp_path):
    with pytest.raises(ValueError, match="several sets of weights; say which is meant with part: one of gen, dis"):
        read(tmp_path, {"gen": ONE, "dis": TWO})
    assert read(tmp_path, {"gen": ONE, "dis": TWO}, part="dis") == (TWO, None)
    # of networks trained together what is said later decides, as of files with their names in the keys
    together = {"model_tiny": ONE, "model_cnn": TWO}
    assert read(tmp_path, together, part="cnn") == ({"model_tiny.w": ONE["w"], "model_cnn.w": TWO["w"]}, "cnn")


@pytest.mark.parametrize("entries, part, taken", [
    (["model.a.w", "model.b.w", "criterion.weight"], None, "model."),
    (["net._orig_mod.a.w", "net._orig_mod.b.w"], None, "net."),
    (["model.student.module.a.w", "model.student.module.b.w", "model.teacher.a.w"], None, "model.student."),
    (["student.model.a.w", "student.model.b.w", "teacher.model.a.w"], None, "student.model."),
    (["model.a.w", "model.b.w", "ema_model.module.a.w", "ema_model.module.b.w"], "ema_model", "ema_model."),
    (["a.w", "b.w", "model.c.w"], None, ""),  # a module of that name is not the whole network
])  # fmt: skip
def test_what_training_modules_put_before_names(entries, part, taken):
    state = {entry: torch.ones(1) for entry in entries}
    found, left, prefix = found_network(state, part)
    assert (left, prefix) == (None, taken)
    assert [*found] == (["a.w", "b.w"] if taken else entries)


def test_a_torch_average_is_read_as_the_network_it_is_of(tmp_path):
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state, _ = read(tmp_path, AveragedModel(network).state_dict())
    assert state.keys() == network.state_dict().keys()


def test_two_entries_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="w.pth: two entries of this file mean w"):
        read(tmp_path, {"module.w": ONE["w"], "w": TWO["w"]})


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: {"model": x, "epoch": 3}, nn.DataParallel])
def test_a_whole_network_is_read_by_who_trusts_it(tmp_path, wrapped):
    network = nn.Linear(2, 3)
    state, _ = read(tmp_path, wrapped(network), trust=True)
    assert state.keys() == {"weight", "bias"} and torch.equal(state["weight"], network.weight)
    with pytest.raises(ValueError, match=r"holds an object of the type torch.nn.\S+ and .*--trust-checkpoint"):
        read_weights(tmp_path / "w.pth")


def nested(content, times):
    for _ in range(times):
        content = {"model": content}
    return content


def circle():
    content = {"epoch": 3}
    content |= {"model": content, "net": content}
    return content


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("content, told", [
    (circle, "holds no state dict: a dict of names to tensors is needed, bare or under one of state_dict"),
    (lambda: nested(ONE, 400), "no deeper than 4 dicts"),
    (lambda: {0: torch.ones(1), 1: torch.ones(2)}, r"its keys are no names \(the first is 0\)"),
    (lambda: {"state_dict": {"w": torch.ones(2, 2).to_sparse(), "v": torch.ones(1)}}, "tensors that are sparse: w;"),
    (lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "tensors that are quantised: w"),
    (lambda: {"w": torch.ones(2, device="meta")}, r"without data \(on the meta device\): w"),
    (dict, "holds no state dict"),
])  # fmt: skip
def test_what_holds_no_weights_is_one_sentence(tmp_path, content, told):
    with pytest.raises(ValueError, match=f"w.pth .*{told}") as caught:
        read(tmp_path, content())
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_what_is_no_file_is_not_opened(tmp_path):
    (tmp_path / "empty.pth").touch()
    os.mkfifo(tmp_path / "pipe.pth")
    for path, told in (("empty.pth", "it is empty"), ("pipe.pth", "is a pipe, a socket or a device and no file"),
                       ("/dev/zero", "is a pipe, a socket or a device"), ("", "is a folder and no file")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            read_weights(tmp_path / path)


def values(**changes):
    """The state of a small network, with changes."""
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict() | {
        key.replace("_", ".", 1): value for key, value in changes.items()
    }


@pytest.mark.parametrize("changes, told", [
    ({"0_weight": torch.full((3, 2), torch.nan)}, "1 of NaN or infinite: 0.weight"),
    ({"0_bias": torch.tensor([0, torch.inf, 0]), "1_bias": torch.full((3,), -torch.inf)},
     "2 of NaN or infinite: 0.bias, 1.bias"),
    ({"0_weight": torch.full((3, 2), 1e39, dtype=torch.float64)}, "1 of NaN or infinite: 0.weight"),
    ({"0_weight": torch.ones(3, 2, dtype=torch.int8)}, "1 of integers or booleans: 0.weight"),
    ({"0_bias": torch.ones(3, dtype=torch.bool)}, "1 of integers or booleans: 0.bias"),
    ({"0_bias": torch.ones(3, dtype=torch.complex64)}, "1 of complex: 0.bias"),
    ({"1_running_var": torch.tensor([1.0, -1e-3, 1.0])}, "1 of negative variances: 1.running_var"),
    ({key: torch.full((3,), torch.nan) for key in ("0_bias", "1_weight", "1_bias", "1_running_mean")},
     "4 of NaN or infinite: 0.bias, 1.weight, 1.bias and 1 more"),
])  # fmt: skip
def test_values_that_weights_cannot_have(changes, told):
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=rf"^theirs holds values that weights cannot have \({told}\)"):
        fill(network, values(**changes), "theirs")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_counters_are_taken(kind):
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {key: value.to(kind) for key, value in values().items()}  # the counter of batches too
    fill(network, state, "theirs")
    assert torch.equal(network[0].weight, state["0.weight"].float())
