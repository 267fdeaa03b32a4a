"""Checkpoints through kills, full disks and damaged files."""

import ctypes
import json
import os
import pickle
import random
import resource
import signal
import sys
import traceback

import pytest
import torch
from safetensors.torch import load_file

from segkd.runner.run_folder import checkpoint
from segkd.runner.run_folder.folder import Checkpoint, RunFolder


def save(folder, iteration, best=0, keep_last=2, size=8, value=None):
    """A checkpoint in which every number is the iteration (or `value`)."""
    value = float(iteration if value is None else value)
    student = {"weight": torch.full((size,), value)}
    state = {"iteration": iteration, "value": value, "graph": {"weight": torch.full((size,), value)}}
    return checkpoint.save(RunFolder(folder), iteration, student, state, keep_last=keep_last, best=best).path


def steps(folder):
    """The complete checkpoints of a run folder."""
    return [found.path for found in RunFolder(folder).complete_checkpoints()]


def value_of(path):
    """The number in a checkpoint; every file of it must agree."""
    state = checkpoint.load(Checkpoint(path))
    student = load_file(path / "student.safetensors")["weight"]
    assert path.name == f"step-{state['iteration']:08d}"
    assert torch.equal(student, state["graph"]["weight"]) and student.unique().tolist() == [state["value"]]
    return state["value"]


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def in_child(action):
    """Runs `action` in a forked child; its exit status and what it returned or raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, str(action()).encode())
            status = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def test_files_of_a_checkpoint(tmp_path):
    path = save(tmp_path, 7, best=7)
    assert path == tmp_path / "checkpoints/step-00000007" and value_of(path) == 7
    assert sorted(str(file.relative_to(path)) for file in path.rglob("*")) == [
        "checksums.json", "student.safetensors", "training_state", "training_state/state.pt"
    ]  # fmt: skip
    assert os.readlink(tmp_path / "checkpoints/last") == os.readlink(tmp_path / "checkpoints/best") == path.name


def test_keep_last_and_best(tmp_path):
    for iteration, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        save(tmp_path, iteration, best=best)
    assert names(tmp_path) == ["best", "last", "step-00000002", "step-00000004", "step-00000005"]
    assert [value_of(path) for path in steps(tmp_path)] == [2, 4, 5]
    assert [value_of((tmp_path / "checkpoints" / link).resolve()) for link in ("best", "last")] == [2, 5]
    save(tmp_path, 6, best=6, keep_last=1)
    assert names(tmp_path) == ["best", "last", "step-00000006"]
    assert steps(tmp_path / "nothing") == []


def test_tensors_that_the_format_does_not_know(tmp_path):
    shared, last = torch.ones(4), torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    parameter = torch.nn.Parameter(torch.ones(2))
    tensors = {"a": shared, "b": shared, "c": last, "d": parameter, "e": shared[1:3]}
    checkpoint.write_tensors(tmp_path / "a.safetensors", tensors)
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["c"], last) and torch.equal(found["a"], found["b"]) and found["e"].shape == (2,)


def replacement_and_removal(folder):
    """All that a run does to its folder: 3 takes the place of the one that is there, 5 makes 1 and 3 superfluous."""
    save(folder, 3, best=3, value=3.5)
    save(folder, 5, best=5, keep_last=1)


def test_no_moment_of_a_save_is_a_bad_one_to_die_in(tmp_path, monkeypatch):
    """The child dies before its first file operation, before its second, ... until it lives through all of them."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and no matter to a kill
    operations = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "open", "shutil.rmtree"}
    for moment in range(1, 1000):
        folder = tmp_path / str(moment)
        save(folder, 1, best=1)
        save(folder, 3, best=3)

        def killed():
            left = [moment]

            def count(event, arguments):
                if event in operations and str(folder) in str(arguments):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            replacement_and_removal(folder)

        status, text = in_child(killed)
        assert status in (0, -signal.SIGKILL), text
        before = {path.name: value_of(path) for path in steps(folder)}
        assert before, f"moment {moment}: nothing is left"
        checkpoint.remove_leftovers(RunFolder(folder))
        after = {path.name: value_of(path) for path in steps(folder)}
        assert before.items() <= after.items() and max(after) >= "step-00000003"
        for link in ("last", "best"):
            assert value_of((folder / "checkpoints" / link).resolve()) >= 3
        assert not [name for name in names(folder) if ".partial" in name or ".replaced" in name]
        # and the run goes on as if nothing had happened
        replacement_and_removal(folder)
        assert names(folder) == ["best", "last", "step-00000005"]
        if status == 0:
            break
    assert moment > 30, moment


def test_leftovers(tmp_path):
    save(tmp_path, 1)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / ".step-00000002.partial").mkdir()
    (checkpoints / "step-00000001").rename(checkpoints / ".step-00000001.replaced")
    (tmp_path / ".student.partial").mkdir()
    (tmp_path / ".student.replaced").mkdir()
    (tmp_path / "panels/step-00000001").mkdir(parents=True)
    for file in (".metrics.partial-0123abcd.jsonl", "panels/step-00000001/.a.partial-0123abcd.png"):
        (tmp_path / file).write_text("half")
    checkpoint.remove_leftovers(RunFolder(tmp_path))
    # the old folder is the only complete one where the kill came between the two renames
    assert [value_of(path) for path in steps(tmp_path)] == [1]
    assert names(tmp_path) == ["last", "step-00000001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "panels", "student"]
    assert not list(tmp_path.rglob(".*"))
    (checkpoints / ".step-00000001.replaced").mkdir()
    checkpoint.remove_leftovers(RunFolder(tmp_path))
    assert names(tmp_path) == ["last", "step-00000001"]


def full_disk(folder, make_full):
    """What a save that does not fit any more says, and what is there afterwards."""
    make_full()
    save(folder, 1, best=1)
    try:
        save(folder, 2, best=2, size=300_000)
    except OSError as error:
        assert [value_of(path) for path in steps(folder)] == [1]
        assert names(folder) == ["best", "last", "step-00000001"], names(folder)
        save(folder, 3, best=1)
        return f"{error}, then {names(folder)}"
    raise AssertionError("the save that cannot fit went through")


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def mount_small_disk(folder):
    """A disk of 512 KiB at `folder`, for this process alone. False where that is not allowed."""
    new_namespace, private = 0x20000, 0x4000 | 0x40000
    libc = ctypes.CDLL(None, use_errno=True)
    return not (libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None)
                or libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, b"size=512k"))  # fmt: skip


@pytest.mark.parametrize("kind", ["file size limit", "full disk"])
def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, kind):
    def make_full():
        if kind == "file size limit":
            limit_file_size()
        elif not mount_small_disk(tmp_path):
            os._exit(77)

    status, text = in_child(lambda: full_disk(tmp_path, make_full))
    if status == 77:
        pytest.skip("this machine does not let us mount a small disk")
    assert status == 0, text
    assert text.startswith(f"{tmp_path}/checkpoints/step-00000002 could not be written (")
    assert "MiB free there); what was saved before is untouched: make room and go on with --resume" in text
    assert text.endswith("then ['best', 'last', 'step-00000001', 'step-00000003']")


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "text", "code", "missing"])
def test_damaged_states(tmp_path, explosive, damage):
    path = save(tmp_path, 4)
    file = path / "training_state/state.pt"
    whole = file.read_bytes()
    file.write_bytes({
        "empty": b"", "truncated": whole[:len(whole) // 2], "noise": random.Random(0).randbytes(500),
        "text": b"hello\n" * 20,
        "code": pickle.dumps(explosive, protocol=2), "missing": b"",
    }[damage])  # fmt: skip
    if damage == "missing":
        file.unlink()
    with pytest.raises(ValueError) as caught:
        checkpoint.load(Checkpoint(path))
    assert str(caught.value).startswith(f"{file} cannot be read (") and "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"delete {path} to resume from the checkpoint before it")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("file", ["training_state/state.pt", "student.safetensors"])
def test_a_flipped_bit_anywhere_is_found(tmp_path, file):
    path, draws = save(tmp_path, 4), random.Random(0)
    whole = (path / file).read_bytes()
    for _ in range(40):
        place, bit = draws.randrange(len(whole)), draws.randrange(8)
        (path / file).write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=f"cannot be read .{file} is damaged or missing.; delete {path} to resume"):
            checkpoint.load(Checkpoint(path))
    (path / file).write_bytes(whole)
    assert value_of(path) == 4
    (path / "checksums.json").unlink()  # made before there were any
    assert value_of(path) == 4


def test_export_student(tmp_path):
    run = RunFolder(tmp_path)
    for iteration, model in ((4, "pspnet"), (5, "deeplabv3")):
        checkpoint.export_student(run, Checkpoint(save(tmp_path, iteration)), {"model": model})
        assert json.loads(run.student.config_file.read_text()) == {"model": model}
        assert load_file(run.student.weights_file)["weight"].tolist() == [iteration] * 8
    assert run.is_finished and sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "student"]
