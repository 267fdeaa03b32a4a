"""Which file a path in a recipe means, and what is refused."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segkd.models._network import Network
from segkd.models._prediction import Normalize
from segkd.models.bare_encoder import BareEncoder
from segkd.models.pspnet import PSPNet
from segkd.runner.recipe.student_folder import described
from segkd.runner.run_folder import checkpoint
from segkd.runner.run_folder.checkpoint import write_tensors
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.weights import find_weights, weights_file

PSPNET = {"model": "pspnet", "args": {}, "num_classes": 3}
DECIMALS = {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4], "order": "rgb"}


def network(value=0.0, width=3):
    built = Network(3)
    built.add_module("0", nn.Linear(2, width))
    built.add_module("1", nn.BatchNorm1d(width))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.fill_(value)
    return built


def value_of(built):
    values = {parameter.unique().item() for parameter in built.parameters()}
    assert len(values) == 1
    return values.pop()


def load_weights(built, path, owner, strict=True):
    find_weights(path, owner=owner).load(built, owner=owner, strict=strict)


def check_same_network(path, *, owner, model, normalize, args={}):
    find_weights(path, owner=owner).check(model=model, args=args, normalize=normalize, owner=owner)


@pytest.fixture
def run(tmp_path):
    """A finished run: checkpoints of the values 1 and 2, the first one delivered."""
    run = RunFolder(tmp_path / "run")
    for iteration in (1, 2):
        checkpoint.save(run, iteration, network(iteration).state_dict(), {"iteration": iteration}, keep_last=2, best=1)
    checkpoint.export_student(run, run.checkpoint(1), PSPNET | {"normalize": "imagenet"})
    run.recipe_file.write_text("name: run\n")
    return run.path


@pytest.mark.parametrize("inside, value", [
    ("", 1), ("student", 1), ("student/model.safetensors", 1), ("checkpoints/step-00000002", 2),
    ("checkpoints/best", 1),
    ("checkpoints/last", 2), ("checkpoints/last/student.safetensors", 2),
])  # fmt: skip
def test_what_a_path_means(run, inside, value):
    built = network()
    load_weights(built, run / inside, owner="networks.teacher")
    assert value_of(built) == value


def test_torch_files(tmp_path):
    state = network(3).state_dict()
    for content in (state, {"state_dict": state, "epoch": 7}):
        torch.save(content, tmp_path / "a.pth")
        built = network()
        load_weights(built, str(tmp_path / "a.pth"), owner="networks.teacher")
        assert value_of(built) == 3


def test_nothing_there(tmp_path, run):
    (tmp_path / "empty").mkdir()
    (run / "student/model.safetensors").unlink()
    for path, told in (
        (tmp_path / "nowhere", f"there are no weights at {tmp_path}/nowhere; give a .safetensors or .pth file, or a"),
        (tmp_path / "empty", "holds no student/model.safetensors, model.safetensors or student.safetensors$"),
        (run, r"\(a run writes student/ when it ends; this one has not\)$"),
    ):
        with pytest.raises(FileNotFoundError, match=told):
            weights_file(path)


@pytest.mark.parametrize("keys", [[], ["state_dict"], ["0.weight"]])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, monkeypatch, explosive, keys):
    monkeypatch.chdir(tmp_path)
    content = {key: explosive for key in keys} or explosive
    torch.save(content, "zip.pth")
    Path("bare.pth").write_bytes(pickle.dumps(content, protocol=2))
    for name in ("zip.pth", "bare.pth"):
        built = network(5)
        told = f"^networks.teacher.weights: {name} holds an object of the type posix.mkdir and is not read"
        with pytest.raises(ValueError, match=told):
            load_weights(built, name, owner="networks.teacher")
        assert value_of(built) == 5
    assert sorted(os.listdir()) == ["bare.pth", "zip.pth"]


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.98])
def test_truncated_files(tmp_path, name, share):
    file = tmp_path / name
    save_file(network(1).state_dict(), file) if name == "a.safetensors" else torch.save(network(1).state_dict(), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    built = network(5)
    with pytest.raises(ValueError, match=f"^networks.teacher.weights: {file} ") as caught:
        load_weights(built, file, owner="networks.teacher")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert value_of(built) == 5


def test_files_of_noise(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for number in range(100):
        noise = torch.randint(32, 127, (200,), generator=generator, dtype=torch.uint8).numpy().tobytes()
        (tmp_path / "a.pth").write_bytes(noise)
        with pytest.raises(ValueError, match="networks.student.weights: .*a.pth"):
            load_weights(network(), tmp_path / "a.pth", owner="networks.student")


def test_weights_of_another_network(tmp_path):
    built = network(5)
    save_file(network(1, width=4).state_dict(), tmp_path / "wide.safetensors")
    told = (
        r"^networks.student.weights: .*wide.safetensors does not fit this network: .*0.weight is \(4, 2\) there, "
        r"\(3, 2\) here.*; check model, args and the data set's class count$"
    )
    with pytest.raises(ValueError, match=told):
        load_weights(built, tmp_path / "wide.safetensors", owner="networks.student")
    state = network(1).state_dict()
    del state["0.bias"]
    save_file(state | {"2.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"1 missing: 0.bias; 1 unexpected: 2.weight"):
        load_weights(built, tmp_path / "other.safetensors", owner="networks.student")
    assert value_of(built) == 5
    load_weights(built, tmp_path / "other.safetensors", owner="networks.student", strict=False)
    weight, bias = built.get_parameter("0.weight"), built.get_parameter("0.bias")
    assert weight.unique().item() == 1 and bias.unique().item() == 5


def test_a_run_of_another_network_or_normalisation(run):
    check_same_network(run, owner="networks.teacher", model="pspnet", normalize="imagenet")
    for path in (run, run / "student", run / "checkpoints/last", run / "checkpoints/step-00000001/student.safetensors"):
        told = "networks.teacher.model: .* was trained as pspnet, the recipe says deeplabv3; write model: pspnet"
        with pytest.raises(ValueError, match=told):
            check_same_network(path, owner="networks.teacher", model="deeplabv3", normalize="imagenet")
        with pytest.raises(
            ValueError, match="teacher.normalize: .* trained with imagenet: .*, the recipe says cirkd: "
        ):
            check_same_network(path, owner="networks.teacher", model="pspnet", normalize="cirkd")
    (run / "student/config.json").write_text(json.dumps(PSPNET))
    check_same_network(run, owner="networks.teacher", model="pspnet", normalize="cirkd")


def test_constants_are_compared_as_what_they_are(run):
    """The same ones under another name, and as the float32 buffers of the network have rounded them."""
    config = PSPNET | {"normalize": "imagenet"}
    for trained, said in (
        ("imagenet", "sam"), ("imagenet", {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}),
        (Normalize.of(DECIMALS).constants, DECIMALS),
    ):  # fmt: skip
        (run / "student/config.json").write_text(json.dumps(config | {"normalize": trained}))
        check_same_network(run, owner="networks.teacher", model="pspnet", normalize=said)
    assert Normalize.of(DECIMALS).constants != DECIMALS


def test_files_that_were_moved_are_of_a_network_with_these_arguments(tmp_path):
    write_tensors(tmp_path / "moved.safetensors", network(1).state_dict(), PSPNET | {"args": {"align_corners": True}})
    with pytest.raises(
        ValueError, match="networks.teacher.args.align_corners: .* with align_corners: True, the recipe"
    ):
        check_same_network(tmp_path / "moved.safetensors", owner="networks.teacher", model="pspnet", normalize=None,
                           args={"align_corners": False})  # fmt: skip


def test_a_file_put_beside_a_student_is_none_of_it(run):
    """Its config.json describes its own weights alone."""
    config = PSPNET | {"normalize": "unit"}
    write_tensors(run / "student/second.safetensors", network(2).state_dict(), config)
    torch.save(network(2).state_dict(), run / "student/third.pth")
    assert find_weights(run / "student/second.safetensors", owner="networks.teacher").config == config
    assert find_weights(run / "student/third.pth", owner="networks.teacher").config == {}
    assert described(run / "student/model.safetensors")["normalize"] == "imagenet"


def test_weights_that_are_a_pipe_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert described(tmp_path / "pipe.safetensors") is None
    with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
        find_weights(tmp_path / "pipe.safetensors", owner="networks.teacher")


@pytest.mark.parametrize("normalize, told", [
    ({"mean": [1, 2, 3]}, r"config.json: normalize.std: Field required"), (3, "config.json: normalize: "),
    ({"mean": [1, 2, 3], "std": [0, 1, 1]}, r"config.json: normalize.std.0: Input should be greater than or equal to 1"),
])  # fmt: skip
def test_half_of_the_constants_are_a_sentence(run, normalize, told):
    (run / "student/config.json").write_text(json.dumps(PSPNET | {"normalize": normalize}))
    with pytest.raises(ValueError, match=told):
        find_weights(run, owner="networks.teacher")


def test_checkpoints_and_files_that_were_moved_describe_their_network(tmp_path):
    """Of a run that has delivered nothing yet, too; config.json goes before what a file says."""
    run, config = RunFolder(tmp_path / "run"), PSPNET | {"normalize": "unit"}
    named = config | {"recipe": "first", "miou": 0.5}  # which differ where the bytes must not
    checkpoint.save(run, 1, network(1).state_dict(), {}, config=named, keep_last=2, best=1)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((run.checkpoints / "best/student.safetensors").read_bytes())
    for path in (run.checkpoints / "last", run.checkpoints / "best/student.safetensors", moved):
        assert described(path) == find_weights(path, owner="networks.teacher").config == config
        load_weights(built := network(), path, owner="networks.teacher")
        assert value_of(built) == 1
    checkpoint.export_student(run, run.checkpoint(1), config | {"normalize": "imagenet"})
    assert described(run.path)["normalize"] == described(run.student.weights_file)["normalize"] == "imagenet"
    assert described(run.checkpoints / "last")["normalize"] == "unit"
    (tmp_path / "empty.safetensors").touch()
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "empty.safetensors"):
        assert described(path) is None
    save_file(network(1).state_dict(), moved, metadata={"segkd": '{"model": 1}'})
    with pytest.raises(
        ValueError, match="moved.safetensors was not written by segkd: model, args, num_classes missing"
    ):
        find_weights(moved, owner="networks.teacher")


DINOV2 = {"model_type": "dinov2", "hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28}


@pytest.mark.parametrize("backbone, stride", [
    ("mobilenetv2_035", 16), ("timm/mobilenetv3_small_050", 16), ("timm/test_vit", 16), (DINOV2, 14)
])  # fmt: skip
def test_an_encoder_without_a_head_fits_a_network_that_has_one(tmp_path, backbone, stride):
    arguments = {"backbone": backbone, "output_stride": stride}
    bare, whole = BareEncoder(3, **arguments), PSPNet(3, width=8, **arguments)
    save_file(bare.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model": "bare_encoder", "args": arguments, "num_classes": 3}))
    load_weights(whole, tmp_path, owner="networks.student")
    state, learnt = whole.backbone.state_dict(), bare.backbone.state_dict()
    assert state.keys() <= learnt.keys() and all(value.equal(learnt[key]) for key, value in state.items())
