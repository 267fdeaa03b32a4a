"""Damaged run folders: of a run that was stopped between two checkpoints, and of one that has finished.

A run of four steps was stopped after the third, with a checkpoint of each of the last two; then one of its files is
damaged. What is judged: `distill.py --resume`

- ends with the weights, the last checkpoint and the log of the run that nobody disturbed, bit for bit; or
- refuses with a sentence, and goes on to that same end once the newest checkpoint is taken away, as it says; a refusal
  that concerns another file must go on once that file is as it was.

Whatever comes, rows of the log that were good stay in it, and no file starts code. A finished run with a damaged file
is compared, scored and used as a teacher; each refuses with a sentence, or gives what the whole run gives.
"""

import functools
import json
import os
import pickle
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from faults.attempts import STOPPED, Case, Ending, Finding, attempt, new_folder
from faults.damages import a_hole, cut, doubled, flipped_bits, noise, zeros
from faults.recipes import BASES, train, write_teacher
from faults.weights import Explosive, as_torch

from segkd.runner import compare, score
from segkd.runner.run_folder import claim as claims

SECONDS = 30
# accumulation, a moving average, a loss with parameters, a teacher
RECIPE = "".join(line for line in BASES["taught"].splitlines(keepends=True) if not re.search("kl|cwd|dist}", line))
RUN = Path("runs/tried")
LAST, BEFORE = RUN / "checkpoints/step-00000003", RUN / "checkpoints/step-00000002"
DAMAGES = (cut, flipped_bits, zeros, a_hole, noise, doubled)
# what a resume reads or replaces; those of an earlier checkpoint matter only when the newest is gone
FILES = {
    str(LAST / "training_state/state.pt"): 8, str(LAST / "student.safetensors"): 3, str(BEFORE / "images.npz"): 1,
    str(BEFORE / "student.safetensors"): 2,
    str(LAST / "checksums.json"): 2, str(RUN / "recipe.yaml"): 3, str(RUN / "metrics.jsonl"): 3,
    str(RUN / "environment.json"): 1, str(RUN / "teachers.json"): 2,
}  # fmt: skip
FINISHED = {
    "student/config.json": 3, "student/model.safetensors": 3, "summary.json": 2, "images.npz": 2, "recipe.yaml": 1,
    "teachers.json": 1, "environment.json": 1, "metrics.jsonl": 1,
}  # fmt: skip


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many damages: every strange one once, then random ones, two of an unfinished run for one of a finished."""
    strange = list(STRANGE)
    random.Random(f"checkpoints {seed}").shuffle(strange)
    for number in range(count):
        draw = random.Random(f"checkpoints {seed} {number}")
        if number % 2 and strange:
            yield _strange(strange.pop())
        elif number % 3 == 2:
            yield _finished(draw)
        else:
            yield _damaged(draw)


def _damaged(draw: random.Random) -> Case:
    file = draw.choices(list(FILES), list(FILES.values()))[0]
    damage = draw.choice(DAMAGES)

    def run(folder: Path) -> Finding:
        return judged(folder, file, lambda path: path.write_bytes(damage(path.read_bytes() or b"{}" * 20, draw)))

    return Case("checkpoints: damaged, resumed", f"{file}: {damage.__name__}", run)


def _strange(name: str) -> Case:
    file, change = STRANGE[name]
    return Case("checkpoints: strange, resumed", name, lambda folder: judged(folder, str(file), change))


def _finished(draw: random.Random) -> Case:
    file = draw.choices(list(FINISHED), list(FINISHED.values()))[0]
    damage, use = draw.choice(DAMAGES), draw.choice(list(USES))

    def run(folder: Path) -> Finding:
        shutil.copytree(template(), folder, dirs_exist_ok=True, symlinks=True)
        path = folder / "whole/runs/tried" / file
        path.write_bytes(damage(path.read_bytes(), draw))
        return _used(folder, use, told=file != "student/model.safetensors")

    return Case("finished runs: damaged, used", f"{file}: {damage.__name__}, {use}", run)


@functools.cache
def template() -> Path:
    """A folder with the run that is going to be damaged and, in whole/, the same run undisturbed to its end."""
    folder = new_folder("template")
    (folder / "whole").mkdir()
    for place, steps in ((folder, 3), (folder / "whole", None)):
        write_teacher(place)
        (place / "tried.yaml").write_text(RECIPE)
        ending = attempt(place, lambda: train("tried.yaml", steps=steps), seconds=120)
        assert ending.code == (0 if steps is None else STOPPED[1]), ending.err
    return folder


def judged(folder: Path, file: str, damage: Callable[[Path], object]) -> Finding:
    """Damages one file of the stopped run and resumes it."""
    shutil.copytree(template(), folder, dirs_exist_ok=True, symlinks=True)
    (folder / file).parent.mkdir(exist_ok=True)  # a run that has ended has no claims
    damage(folder / file)
    good = good_rows(folder / RUN / "metrics.jsonl")
    ending = _resume(folder)
    if (folder / "exploded").exists():
        return Finding("code", "the canary is dead")
    if ending.trouble:
        return ending.trouble
    if ending.code == 0:
        wrong = unlike(folder, folder / "whole", good)
        return Finding("nonsense", wrong) if wrong else Finding("fine")
    lost = good_rows(folder / RUN / "metrics.jsonl").items()
    if any((step, row) not in lost for step, row in good.items() if step <= 3):
        return Finding("lost", f"rows of the log are gone after: {ending.err}")
    # as the sentence says, or as whoever has a copy does
    if str(LAST) in file:
        shutil.rmtree(folder / LAST)
    else:
        _put_back(folder, file)
    second = _resume(folder)
    if second.trouble or second.code:
        return second.trouble or Finding("lost", f"{ending.err}\nand then\n{second.err}")
    wrong = unlike(folder, folder / "whole", good)
    return Finding("lost", f"{ending.err}\nand then {wrong}") if wrong else Finding("refused", ending.err.strip())


def _put_back(folder: Path, file: str) -> None:
    path, old = folder / file, template() / file
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if old.is_symlink() or old.exists():
        shutil.copy2(old, path, follow_symlinks=False)


def _resume(folder: Path) -> Ending:
    def resume() -> None:
        claims.STALE = 4.0  # for a claim whose owner nobody knows
        train("tried.yaml", "--resume")

    return attempt(folder, resume, seconds=SECONDS)


def good_rows(file: Path) -> dict[int, dict]:
    """The rows that anybody can read in a log, by iteration, without what differs between any two runs."""
    rows = {}
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("iteration")) is int:
            rows[row["iteration"]] = {key: value for key, value in row.items() if not key.startswith(CLOCKS)}
    return rows


# the norm stands wherever a write happened to be
CLOCKS = ("images_per_second", "seconds", "memory_gib", "gradient_norm")


def unlike(folder: Path, whole: Path, good: dict[int, dict] | None = None, run: Path = RUN) -> str:
    """How a finished run differs from the undisturbed one; nothing where it does not.

    Args:
        good: rows that were in the log before; the others may have been lost to the damage. None: every row counts.
    """
    here, there = folder / run, whole / run
    for file in ("student/model.safetensors", "checkpoints/last/student.safetensors"):
        if (here / file).read_bytes() != (there / file).read_bytes():
            return f"other weights in {file}"
    if state_bits(here) != state_bits(there):
        return "another last checkpoint"
    found, wanted = good_rows(here / "metrics.jsonl"), good_rows(there / "metrics.jsonl")
    if good is not None:
        wanted = {step: row for step, row in wanted.items() if good.get(step) == row or step == max(wanted)}
    if any(found.get(step) != row for step, row in wanted.items()):
        return f"another log: iterations {sorted(found)}"
    if good is None and len((here / "metrics.jsonl").read_text().splitlines()) != len(wanted):
        return f"rows twice in the log, or lines that are none: {sorted(found)}"
    with np.load(here / "images.npz") as one, np.load(there / "images.npz") as other:
        if any(not np.array_equal(one[key], other[key]) for key in other):
            return "other counts in images.npz"
    return ""


def state_bits(run: Path) -> object:
    """The state of the last checkpoint, its tensors as bytes."""
    state = torch.load(run / "checkpoints/last/training_state/state.pt", weights_only=True)
    state["progress"].pop("wandb_id", None)
    return _bits(state)


def _bits(value: object) -> object:
    if isinstance(value, dict):
        return {key: _bits(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bits(inner) for inner in value]
    return (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value


# ---- uses of a finished run, in a folder that holds it as whole/runs/tried


def _compare(folder: Path) -> object:
    sys.argv = ["compare.py", "whole/runs/tried", "--output", "tables"]
    compare.main()
    table = Path("tables/table.csv").read_text()
    return table


def _score(folder: Path) -> object:
    sys.argv = ["score.py", "whole/runs/tried"]
    score.main()


def _teach(folder: Path) -> object:
    text = RECIPE.replace("weights: teacher.safetensors", "weights: whole/runs/tried").replace(
        "name: tried", "name: taught"
    )
    Path("taught.yaml").write_text(text)
    train("taught.yaml", "seed=5", "loop.save_every=2", steps=2)


def _resume_finished(folder: Path) -> object:
    os.chdir("whole")
    train("tried.yaml", "--resume")


USES = {"compared": _compare, "scored": _score, "as a teacher": _teach, "resumed": _resume_finished}


def _used(folder: Path, use: str, told: bool) -> Finding:
    ending = attempt(folder, lambda: USES[use](folder), seconds=SECONDS)
    if (folder / "exploded").exists() or (folder / "whole/exploded").exists():
        return Finding("code", "the canary is dead")
    return ending.finding


# ---- changes that no accident makes, or only one


def _text(text: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def _lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def _state(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """A training state with something changed, written as the run would write it."""

    def write(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        path.write_bytes(as_torch(change(state) or state))

    return write


def _gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _in_place(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Something else where a file was."""

    def write(path: Path) -> None:
        _gone(path)
        make(path)

    return write


def _pickled_array(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, names=np.array([Explosive()], dtype=object), counts=np.array([Explosive()], dtype=object))


def _not_a_number(state: dict) -> None:
    next(value for value in state["graph"].values() if value.is_floating_point()).fill_(float("nan"))


STATE, STUDENT, IMAGES = LAST / "training_state/state.pt", LAST / "student.safetensors", BEFORE / "images.npz"
CHECKSUMS, LOG, SAID = LAST / "checksums.json", RUN / "metrics.jsonl", RUN / "recipe.yaml"
STRANGE: dict[str, tuple[Path, Callable[[Path], object]]] = {
    "state: empty": (STATE, _text("")), "state: gone": (STATE, _gone), "state: text": (STATE, _text("nothing\n")),
    "state: code in a pickle": (STATE, _text(pickle.dumps(Explosive()))),
    "state: code in a torch file": (STATE, _state(lambda state: state | {"a": Explosive()})),
    "state: a list": (STATE, _state(lambda state: [1])), "state: no networks": (STATE, _state(lambda state: state.pop("graph") and None)),
    "state: no optimizers": (STATE, _state(lambda state: state | {"optimizers": []})),
    "state: not a number": (STATE, _state(_not_a_number)),
    "state: another iteration": (STATE, _state(lambda state: state["progress"].update(iteration=1))),
    "state: no progress": (STATE, _state(lambda state: state | {"progress": {}})),
    "state: a named pipe": (STATE, _in_place(os.mkfifo)), "state: a folder": (STATE, _in_place(Path.mkdir)),
    "state: an endless device": (STATE, _in_place(lambda path: path.symlink_to("/dev/zero"))),
    "student: empty": (STUDENT, _text("")), "student: gone": (STUDENT, _gone),
    "student: code": (STUDENT, _text(pickle.dumps(Explosive()))),
    "images: gone": (IMAGES, _gone), "images: code": (IMAGES, _pickled_array),
    "checksums: gone": (CHECKSUMS, _gone), "checksums: empty": (CHECKSUMS, _text("")), "checksums: a list": (CHECKSUMS, _text("[]")),
    "checksums: of nothing": (CHECKSUMS, _text("{}")), "checksums: numbers": (CHECKSUMS, _text('{"a": 3}')),
    "checkpoint: an empty folder": (LAST, _in_place(Path.mkdir)), "checkpoint: a file": (LAST, _in_place(Path.touch)),
    "checkpoint: gone": (LAST, _gone),
    "checkpoint: of another name": (RUN / "checkpoints/step-x", Path.mkdir),
    "checkpoint: half of one": (RUN / "checkpoints/.step-00000004.123", Path.mkdir),
    "last: gone": (RUN / "checkpoints/last", _gone), "last: to nowhere": (RUN / "checkpoints/last", _in_place(lambda path: path.symlink_to("nowhere"))),
    "last: a folder": (RUN / "checkpoints/last", _in_place(Path.mkdir)),
    "best: gone": (RUN / "checkpoints/best", _gone),
    "recipe: empty": (SAID, _text("")), "recipe: a list": (SAID, _text("[1]\n")), "recipe: binary": (SAID, _text(bytes(range(256)))),
    "recipe: code": (SAID, _text("a: !!python/object/apply:os.mkdir [exploded]\n")), "recipe: a folder": (SAID, _in_place(Path.mkdir)),
    "log: gone": (LOG, _gone), "log: empty": (LOG, _text("")), "log: a folder": (LOG, _in_place(Path.mkdir)),
    "log: a bad first line": (LOG, _lines(lambda lines: [b"\x00\xff\n", *lines])),
    "log: a bad line between": (LOG, _lines(lambda lines: [lines[0], b"{bad\n", *lines[1:]])),
    "log: lines that are no rows": (LOG, _lines(lambda lines: [b"3\n", b"[]\n", b"null\n", b'{"a": 1}\n', *lines])),
    "log: a cut last line": (LOG, _lines(lambda lines: [*lines[:-1], lines[-1][:20]])),
    "log: a row of another time": (LOG, _lines(lambda lines: [*lines, b'{"iteration": 99, "total": 1.0}\n'])),
    "log: rows of strange iterations": (LOG, _lines(lambda lines: [
        b'{"iteration": -1}\n', b'{"iteration": true}\n', b'{"iteration": 1e9}\n', b'{"iteration": "2"}\n', *lines])),
    "log: a line of a megabyte": (LOG, _lines(lambda lines: [b"x" * 2**20 + b"\n", *lines])),
    "log: nested deeply": (LOG, _lines(lambda lines: [b"[" * 100_000 + b"\n", *lines])),
    "log: blank lines": (LOG, _lines(lambda lines: [b"\n", lines[0], b"\n\n", *lines[1:]])),
    "teachers: empty": (RUN / "teachers.json", _text("")), "teachers: a list": (RUN / "teachers.json", _text("[]")),
    "teachers: words": (RUN / "teachers.json", _text('{"teacher": "good"}')),
    "environment: gone": (RUN / "environment.json", _gone),
    "claim: of nobody": (RUN / "claim/7", _text('{"host": "elsewhere", "process": 1, "since": "never"}')),
    "claim: noise": (RUN / "claim/7", _text(bytes(range(256)))),
    "wandb-id: noise": (RUN / "wandb-id", _text(b"\xff\xfe\n../x")),
}  # fmt: skip
