"""Damaged, strange and dangerous files of weights, given to a network by a recipe as `weights: FILE`.

What is judged: the file is refused with a sentence, or the network has the very weights that were put into it (one of
the sets, where a file holds several). A flipped bit in a file without checksums (.safetensors) cannot be told from a
weight: there the network must still be finite, with variances that are not negative. No file starts code: a canary, a
folder that unpickling would make, must not appear, and no program may be started.
"""

import collections
import functools
import io
import json
import os
import pickle
import random
import struct
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors.torch
import torch
from faults.attempts import Case, Finding, attempt
from faults.damages import a_hole, cut, doubled, flipped_bits, noise, zeros
from faults.recipes import BASES, FLAT, NET, flat_network
from torch import Tensor

from segkd.runner.building.networks import build_networks
from segkd.runner.loading.data_sets import build_dataset
from segkd.runner.recipe.read import read

SECONDS, MEMORY = 15, 2 * 2**30
State = dict[str, Tensor]


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many files: every strange one once, then damaged ones."""
    strange = list(STRANGE)
    random.Random(f"weights {seed}").shuffle(strange)
    for number in range(count):
        draw = random.Random(f"weights {seed} {number}")
        if number % 2 == 0 and strange:
            yield _strange(strange.pop())
        else:
            yield _damaged(draw)


def _damaged(draw: random.Random) -> Case:
    ending, damage = draw.choice(("pth", "pth", "safetensors")), draw.choice(DAMAGES)

    def run(folder: Path) -> Finding:
        content = as_safetensors(original()) if ending == "safetensors" else as_torch({"state_dict": original()})
        (folder / f"tried.{ending}").write_bytes(damage(content, draw))
        return judged(folder, f"tried.{ending}", () if ending == "safetensors" and damage in UNTOLD else (original(),))

    return Case("weights: damaged", f"{ending}: {damage.__name__}", run)


def _strange(name: str) -> Case:
    def run(folder: Path) -> Finding:
        ending = "safetensors" if name.startswith("safetensors") else "pth"
        made = STRANGE[name](original())
        file = folder / f"tried.{ending}"
        if callable(made):
            made(file)
        else:
            file.write_bytes(made if isinstance(made, bytes) else as_torch(made))
        return judged(folder, file.name, (original(), shifted(original())))

    return Case("weights: strange", name, run)


def judged(folder: Path, file: str, sets: tuple[State, ...]) -> Finding:
    """What a recipe makes of weights: they must be one of `sets`, or with none given any that are finite."""
    student_with = FLAT.replace("args:", f"weights: {file}, args:")
    (folder / "tried.yaml").write_text(BASES["plain"].replace(NET, student_with))
    ending = attempt(folder, lambda: _differs(sets), seconds=SECONDS, memory=MEMORY)
    if (folder / "exploded").exists():
        return Finding("code", "the canary is dead")
    if ending.trouble or ending.code == 2:
        return ending.finding
    return Finding("nonsense", ending.told) if ending.told else Finding("fine")


def _differs(sets: tuple[State, ...]) -> str:
    """What is wrong with the weights of the student; nothing where they are right. Run in the folder."""
    recipe = read("tried.yaml")
    found = build_networks(recipe, build_dataset(recipe, "train"))["student"].state_dict()
    for key, value in found.items():
        if not torch.isfinite(value).all():
            return f"{key} is not finite"
        if key.endswith("running_var") and (value < 0).any():
            return f"{key} is negative"
    if not sets:
        return ""
    wrong = [[key for key in found if not torch.equal(found[key], given[key])] for given in sets]
    fewest = min(wrong, key=len)
    return f"{len(fewest)} tensors differ from the file's, such as {fewest[0]}" if fewest else ""


@functools.cache
def _original() -> State:
    torch.manual_seed(1)
    state = flat_network().state_dict()
    return {key: torch.rand(value.shape) + 0.5 if value.is_floating_point() else value for key, value in state.items()}


def original() -> State:
    """The weights that are put into the files: other ones than a network begins with."""
    return dict(_original())


def shifted(state: State) -> State:
    """Another set of weights for the same network."""
    return {key: value + 0.25 if value.is_floating_point() else value for key, value in state.items()}


def as_torch(content: object, **settings: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


def as_safetensors(state: State) -> bytes:
    return safetensors.torch.save({key: value.contiguous() for key, value in state.items()})


UNTOLD = (flipped_bits, zeros)  # damages that leave a .safetensors file in order
DAMAGES = (cut, flipped_bits, flipped_bits, zeros, a_hole, noise, doubled)


class Explosive:
    """Makes the canary when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


class ExplosiveKey(str):
    """A key that makes the canary."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


class Whole(torch.nn.Module):
    """A module that is pickled with its weights, as some training codes save it."""

    def __init__(self, state: State):
        super().__init__()
        self.weight = torch.nn.Parameter(next(iter(state.values())).clone())


def _with(state: State, change: Callable[[Tensor], Tensor], which: str = "weight") -> State:
    """The state with its last floating-point tensor of this name changed."""
    key = [key for key in state if key.endswith(which) and state[key].is_floating_point()][-1]
    return state | {key: change(state[key].clone())}


def _one(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return change


def _deep(content: object, depth: int) -> object:
    for _ in range(depth):
        content = {"state_dict": content}
    return content


def _in_itself(state: State) -> Callable[[Path], None]:
    content: dict = {"epoch": 3}
    content["state_dict"] = content
    return lambda file: file.write_bytes(as_torch(content))


def _list_in_itself(state: State) -> bytes:
    content: list = [state]
    content.append(content)
    return as_torch({"a": content, "model": content})


def _module(state: State) -> bytes:
    return as_torch(Whole(state))


def _replaced(name: str, content: bytes) -> Callable[[State], bytes]:
    """A torch file in which one record has another content."""

    def make(state: State) -> bytes:
        old, new = zipfile.ZipFile(io.BytesIO(as_torch({"state_dict": state}))), io.BytesIO()
        with zipfile.ZipFile(new, "w") as writer:
            for record in old.namelist():
                writer.writestr(record, content if record.endswith(name) else old.read(record))
        return new.getvalue()

    return make


def _zip_bomb(state: State) -> bytes:
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("archive/data.pkl", bytes(3 * 10**8))
        writer.writestr("archive/version", "3\n")
    return new.getvalue()


def _zip(name: str) -> bytes:
    """A zip file of one empty member."""
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w") as writer:
        writer.writestr(name, "")
    return new.getvalue()


def _climbing(state: State) -> bytes:
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w") as writer:
        writer.writestr("../exploded/data.pkl", pickle.dumps(Explosive()))
        writer.writestr("archive/data.pkl", pickle.dumps(Explosive()))
    return new.getvalue()


def _header(change: Callable[[dict], object]) -> Callable[[State], bytes]:
    """A .safetensors file whose header is changed."""

    def make(state: State) -> bytes:
        content = as_safetensors(state)
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        text = json.dumps(change(header) or header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return make


def _first(header: dict) -> dict:
    return header[next(key for key in header if key != "__metadata__")]


def _quantised(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


PICKLED = pickle.dumps({"state_dict": Explosive()})
STRANGE: dict[str, Callable[[State], object]] = {
    # values
    "not a number": lambda state: _with(state, _one(float("nan"))),
    "infinite": lambda state: _with(state, _one(float("inf"))),
    "safetensors not a number": lambda state: as_safetensors(_with(state, _one(float("nan")))),
    "safetensors infinite": lambda state: as_safetensors(_with(state, _one(-float("inf")))),
    "a bias that is not a number": lambda state: _with(state, _one(float("nan")), "bias"),
    "a negative variance": lambda state: _with(state, _one(-1.0), "running_var"),
    "a variance that is not a number": lambda state: _with(state, _one(float("nan")), "running_var"),
    "integers": lambda state: {key: value.to(torch.int32) for key, value in state.items()},
    "bytes": lambda state: {key: value.to(torch.uint8) for key, value in state.items()},
    "one tensor of integers": lambda state: _with(state, lambda tensor: tensor.to(torch.int64)),
    "safetensors integers": lambda state: as_safetensors(_with(state, lambda tensor: tensor.to(torch.int16))),
    "booleans": lambda state: _with(state, lambda tensor: tensor > 1),
    "complex": lambda state: _with(state, lambda tensor: tensor + 1j),
    "float64": lambda state: {key: value.double() if value.is_floating_point() else value for key, value in state.items()},
    "sparse": lambda state: _with(state, lambda tensor: tensor.to_sparse()),
    "sparse rows": lambda state: _with(state, lambda tensor: tensor.flatten(1).to_sparse_csr()),
    "quantised": lambda state: _with(state, _quantised),
    "all quantised": lambda state: {key: _quantised(value.float()) for key, value in state.items()},
    "without data": lambda state: {key: value.to("meta") for key, value in state.items()},
    "one without data": lambda state: _with(state, lambda tensor: tensor.to("meta")),
    "parameters": lambda state: {key: torch.nn.Parameter(value, value.is_floating_point()) for key, value in state.items()},
    "numpy arrays": lambda state: {key: value.numpy() for key, value in state.items()},
    "lists of numbers": lambda state: {key: value.tolist() for key, value in state.items()},
    # keys and shapes
    "a key less": lambda state: dict(list(state.items())[1:]),
    "half of the keys": lambda state: dict(list(state.items())[::2]),
    "a key more": lambda state: state | {"extra.weight": torch.ones(3)},
    "another shape": lambda state: _with(state, lambda tensor: tensor[:1]),
    "a transposed tensor": lambda state: state | {key: state[key].transpose(0, 1) for key in list(state)[:1]},
    "strides of another order": lambda state: {
        key: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value for key, value in state.items()},
    "no dimensions": lambda state: _with(state, lambda tensor: tensor.sum()),
    "no elements": lambda state: _with(state, lambda tensor: tensor[:0]),
    "a dimension more": lambda state: _with(state, lambda tensor: tensor[None]),
    "integer keys": lambda state: dict(enumerate(state.values())),
    "an integer key": lambda state: state | {7: torch.ones(1)},
    "a key that is none": lambda state: state | {None: torch.ones(1)},
    "a tuple as key": lambda state: state | {("a", 1): torch.ones(1)},
    "a key of a megabyte": lambda state: state | {"k" * 2**20: torch.ones(1)},
    "ten thousand keys": lambda state: state | {f"extra.{n}": torch.ones(1) for n in range(10_000)},
    "a key with escape sequences": lambda state: state | {"\x1b[31mred\n\x07": torch.ones(1)},
    "other words before the keys": lambda state: {f"module.model.{key}": value for key, value in state.items()},
    # what holds them
    "bare": lambda state: state, "ordered": lambda state: collections.OrderedDict(state),
    "under model": lambda state: {"model": state, "epoch": 3, "optimizer": {"state": {}}},
    "Lightning's": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 1},
    "a set and its average": lambda state: {"model": state, "model_ema": shifted(state)},
    "an average first": lambda state: {"ema": shifted(state), "state_dict": state},
    "two sets of other names": lambda state: {"first": state, "second": shifted(state)},
    "empty dict": lambda state: {}, "empty state": lambda state: {"state_dict": {}}, "none": lambda state: None,
    "a list": lambda state: [state], "a tensor": lambda state: torch.ones(3), "a word": lambda state: "word",
    "a set of weights in ten wrappers": lambda state: _deep(state, 10),
    "wrapped a thousand times": lambda state: (lambda file: _in_a_thread(lambda: file.write_bytes(as_torch(_deep(state, 1000))))),
    "inside of itself": _in_itself, "a list inside of itself": _list_in_itself,
    "optimizer alone": lambda state: {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1}]}},
    # code
    "code in a pickle": lambda state: PICKLED,
    "code in protocol 0": lambda state: b"cos\nmkdir\n(S'exploded'\ntR.",
    "code in protocol 4": lambda state: pickle.dumps({"state_dict": Explosive()}, 4),
    "code in a torch file": lambda state: {"state_dict": state, "hook": Explosive()},
    "code in a key": lambda state: {"state_dict": state, ExplosiveKey("a"): 1},
    "code in an optimizer": lambda state: {"model": state, "optimizer": {"state": {0: Explosive()}}},
    "code in an old torch file": lambda state: as_torch({"state_dict": state, "a": Explosive()}, _use_new_zipfile_serialization=False),
    "code as a record": _replaced("data.pkl", PICKLED),
    "code as a safetensors": lambda state: (lambda file: file.with_suffix(".safetensors").write_bytes(PICKLED)),
    "safetensors that is code": lambda state: PICKLED,
    "safetensors that is a torch file": lambda state: as_torch(state),
    "a safetensors file": lambda state: as_safetensors(state),
    "a whole module": _module, "a path that climbs": _climbing,
    "an old torch file": lambda state: as_torch({"state_dict": state}, _use_new_zipfile_serialization=False),
    # containers
    "a TorchScript program": lambda state: _zip("program/constants.pkl"), "another zip": lambda state: _zip("word/a.xml"),
    "a text": lambda state: b"hello", "a picture": lambda state: b"\x89PNG\r\n\x1a\n" + bytes(60),
    "a zip bomb": _zip_bomb, "an empty zip": lambda state: b"PK\5\6" + bytes(18),
    "a record of noise": _replaced("data/0", random.Random(0).randbytes(64)),
    "no pickle in it": _replaced("data.pkl", b""), "a pickle of noise": _replaced("data.pkl", random.Random(1).randbytes(900)),
    "another byte order": _replaced("byteorder", b"big"), "another version": _replaced("version", b"99\n"),
    "safetensors of a header of exabytes": lambda state: struct.pack("<Q", 2**60) + b"{}",
    "safetensors of an unknown type": _header(lambda header: _first(header).update(dtype="F7")),
    "safetensors of negative shape": _header(lambda header: _first(header).update(shape=[-1, 3])),
    "safetensors of a huge shape": _header(lambda header: _first(header).update(shape=[2**40, 2**40])),
    "safetensors that reaches too far": _header(lambda header: _first(header).update(data_offsets=[0, 2**50])),
    "safetensors that overlaps": _header(lambda header: _first(header).update(data_offsets=[4, 8])),
    "safetensors of a list": _header(lambda header: [1, 2]), "safetensors of no tensors": lambda state: as_safetensors({}),
    # no files
    "empty": lambda state: b"", "text": lambda state: b"no weights\n" * 100, "HTML": lambda state: b"<html>404</html>",
    "an LFS pointer": lambda state: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "a named pipe": lambda state: os.mkfifo, "a folder": lambda state: Path.mkdir,
    "an endless device": lambda state: (lambda file: file.symlink_to("/dev/zero")),
    "safetensors named pipe": lambda state: os.mkfifo,
    "safetensors endless device": lambda state: (lambda file: file.symlink_to("/dev/zero")),
    "a link to itself": lambda state: (lambda file: file.symlink_to(file.name)),
}  # fmt: skip


def _in_a_thread(action: Callable[[], object]) -> None:
    """Runs an action on a stack that is deep enough for pickling a nested dict."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    threading.stack_size(512 * 2**20)
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()
    threading.stack_size(0)
    sys.setrecursionlimit(limit)
