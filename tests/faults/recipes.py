"""Recipes as nobody should write them: one that works, changed at random, then checked and trained for two steps.

What is judged: check.py --no-data and distill.py either refuse the recipe with a sentence, or

- every value that was written stands in the resolved recipe, of its own kind (no number in place of true);
- every number of the resolved recipe is finite, and those of RANGES lie in them;
- two steps of training have finite losses and leave a recipe.yaml that says the same.
"""

import copy
import functools
import json
import math
import os
import random
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml
from faults.attempts import STOPPED, Case, Finding, attempt
from faults.recipe_changes import CHANGES, TEXT_CHANGES, in_a_circle

from segkd.runner import check, distill
from segkd.runner.recipe import parts
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.checkpoint import write_tensors
from segkd.runner.training.stop_signal import StopSignal

HEAD = """
name: tried
data:
  dataset: synthetic
  args: {size: [32, 48], length: 4}
  crop_size: [32, 32]
  batch_size: 2
  workers: 0
"""
NET = "{model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8, aux: false}}"
FLAT = "{source: timm, model: test_resnet, args: {width: 8, aux: false}}"  # few layers: cases are many
FROZEN = FLAT.replace("args:", "train: false, weights: teacher.safetensors, args:")
TAIL = """
optimizer: {lr: 0.02}
schedule: {iterations: 4}
evaluate: {every: 2}
tracking: {wandb: disabled, images: 0, every: 1}
"""
BASES = {
    "plain": HEAD + f"networks: {{student: {NET}}}\nlosses:\n  - {{loss: cross_entropy}}" + TAIL,
    "taught": f"""{HEAD.replace("batch_size: 2", "batch_size: 4")}networks:
  student: {FLAT}
  teacher: {FROZEN}
losses:
  - {{loss: cross_entropy, args: {{ohem_min_kept: 10, focal_gamma: 2.0}}}}
  - {{loss: kl, weight: {{start: 0.0, end: 1.0, over: [0, 3]}}, args: {{temperature: 4.0}}}}
  - {{loss: cwd, after: 0, args: {{temperature: 4.0}}}}
  - {{loss: dist}}
  - {{loss: mgd, weight: 0.001}}
loop: {{ema: 0.9, clip_norm: 1.0, accumulate: 2, save_every: 1}}{TAIL}""",
    "semi": f"""{HEAD}  labelled: 1/2
  unlabelled: {{strong: {{}}}}
  mix: {{kind: class_paste}}
networks:
  student: {FLAT}
  peer: {FLAT.replace("model:", "optimizer: {name: adamw, lr: 0.001}, schedule: {name: cosine, warmup: 2}, model:")}
  average: {{ema_of: student, train: false, ema_decay: 0.8}}
losses:
  - {{loss: cross_entropy}}
  - {{loss: cross_entropy, of: peer, label: peer_ce}}
  - {{loss: cross_pseudo, from: average, 'on': strong}}
  - {{loss: kl, from: peer, 'on': both, weight: 0.5, after: 1}}{TAIL}""",
    "scored": f"""{HEAD}  transform: {{scale_range: [0.5, 2.0], jitter: 0.5}}
networks: {{student: {FLAT}, teacher: {FROZEN}}}
losses: [{{loss: cross_entropy}}, {{loss: cirkd_minibatch}}, {{loss: at}}]
optimizer: {{name: adamw, lr: 0.001, no_decay: [norm]}}
schedule: {{iterations: 4, name: cosine, warmup: 2}}
evaluate: {{every: 2, mode: slide, window: [32, 32], stride: [24, 24], scales: [1.0, 1.5], flip: true,
           metrics: {{boundary: {{width: 3}}, calibration: {{}}}}}}
tracking: {{wandb: disabled, images: 1, every: 1}}
""",
}
# numbers of a resolved recipe (a pattern of dotted keys) that mean nothing outside: an independent word on the schema
RANGES = {
    r".*\.(batch_size|crop_size\.\d|iterations|every|accumulate|keep_last|width|size\.\d|length)": (1, 1e9),
    r".*\.workers": (0, 1024),
    r".*\.(temperature|tau|contrast_temperature)": (1e-6, 1e6),
    r".*losses\.\d+\.weight(\.start|\.end)?": (0, 1e9),
    r".*\.(lr|power)": (1e-12, 1e9),
    r".*\.(momentum|weight_decay|warmup|lr_scale|min_lr|.*_weight)": (0, 1e9),
    r".*\.(ema|ema_decay|focal_alpha|ohem_threshold|flip|drop_factor|betas\.\d)": (0, 1),
    r".*\.scales\.\d+": (0.01, 100),
    r".*\.scale_range\.\d+": (0.01, 100),
}
SECONDS = 60  # a case ends within two, on an idle machine
LARGEST = 2**63  # no count, seed or size is above it


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many mutated recipes: single values and keys, sections that swap places, text, and files that are none."""
    for number in range(count):
        draw = random.Random(f"recipes {seed} {number}")
        yield (by_text, by_tree, by_tree, by_tree, by_file)[number % 5](draw, number // 5)


def by_tree(draw: random.Random, number: int) -> Case:
    """One to three changes of keys and values, in the file or on the command line."""
    base = draw.choice(list(BASES))
    tree = _tree(base, in_full=draw.random() < 0.5)
    changes = {draw.choice(CHANGES): None for _ in range(draw.choice((1, 1, 1, 2, 3)))}
    # no other change finds its way through a circle
    done = [change(tree, draw) for change in sorted(changes, key=lambda change: change is in_a_circle)]
    return _case("recipes: keys and values", f"{base}: {'; '.join(done)}", yaml.safe_dump(tree, sort_keys=False), tree)


def by_text(draw: random.Random, number: int) -> Case:
    """One to three changes of the bytes of the file."""
    base = draw.choice(list(BASES))
    text = yaml.safe_dump(_tree(base, in_full=draw.random() < 0.5), sort_keys=False).encode()
    done = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        change = draw.choice(TEXT_CHANGES)
        text = change(text, draw)
        done.append(change.__name__)
    return _case("recipes: text", f"{base}: {', '.join(done)}", text)


def by_file(draw: random.Random, number: int) -> Case:
    """A file that is no recipe, or one that leads back to itself."""
    name = list(FILES)[number % len(FILES)]
    return _case("recipes: files and circles", name, FILES[name])


def _case(situation: str, name: str, text: str | bytes | Callable[[Path], None], tree: dict | None = None) -> Case:
    def run(folder: Path) -> Finding:
        write_teacher(folder)
        if callable(text):
            text(folder)
        else:
            (folder / "tried.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return judged(folder, tree)

    return Case(situation, name, run)


def write_teacher(folder: Path) -> None:
    """The weights of the teacher of BASES."""
    torch.manual_seed(0)
    write_tensors(folder / "teacher.safetensors", flat_network().state_dict())


def flat_network() -> torch.nn.Module:
    """The network of FLAT for the eight classes of the scenes."""
    file, arguments = parts.network_part("timm", "test_resnet", yaml.safe_load(FLAT)["args"])
    return parts.build("models", file, parts.completed_arguments("models", file, arguments), 8)


def judged(folder: Path, tree: dict | None = None) -> Finding:
    """check.py --no-data, then two steps of distill.py. `tree`: what the recipe says, where that is known."""
    ending = attempt(folder, lambda: _accepted(tree), seconds=SECONDS)
    if (folder / "exploded").exists():
        return Finding("code", "the canary is dead")
    if ending.trouble or ending.code == 2:
        return ending.finding
    return Finding("nonsense", "; ".join(ending.told[:5])) if ending.told else Finding("fine")


def _accepted(tree: dict | None) -> list[str]:
    """Checks and trains the recipe; what is wrong with what came of it."""
    try:
        check_and_train("tried.yaml")
    except SystemExit as end:
        if end.code not in STOPPED:
            raise
    return _complaints(tree)


def check_and_train(*arguments: str, steps: int = 2) -> None:
    """check.py --no-data and so many steps of distill.py, which then gets the signal to stop."""
    check.flops = lambda network, image: 0.0  # as long as all the rest, and no recipe changes how they are counted
    torch.compiler.set_stance("force_eager")  # `compile: true` starts compilers, for half a minute
    sys.argv = ["check.py", *arguments, "--no-data"]
    check.main()
    train(*arguments, steps=steps)


def train(*arguments: str, steps: int | None = None) -> None:
    """distill.py in this process; stopped as by a signal after so many steps."""
    begin, left = StopSignal.__init__, [steps]

    def started(self: StopSignal, accelerator: object) -> None:
        begin(self, accelerator)
        self.received = None

    def asked(self: StopSignal) -> bool:
        if left[0] is not None:
            left[0] -= 1
            self.received = signal.SIGTERM if left[0] <= 0 else None
        return self.received is not None

    StopSignal.__init__, StopSignal.asked = started, asked
    sys.argv = ["distill.py", *arguments]
    distill.main()


def _complaints(tree: dict | None) -> list[str]:
    """What is wrong with a recipe that was accepted and a run that was begun; run in the folder."""
    recipe = read("tried.yaml")
    resolved = recipe.model_dump(mode="json", by_alias=True)
    found = [] if tree is None else list(_not_kept(tree, resolved, ()))
    found += _out_of_range(resolved)
    rows = [json.loads(line) for line in (recipe.folder / "metrics.jsonl").read_text().splitlines()]
    found += [f"iteration {row['iteration']}: {key} is none" for row in rows for key in row if row[key] is None]
    if not rows or [row["iteration"] for row in rows] != list(range(1, len(rows) + 1)):
        found.append("the log is not 1, 2")
    again = read(recipe.folder / "recipe.yaml")
    if again.model_dump(exclude={"baseline"}) != recipe.model_dump(exclude={"baseline"}):
        found.append("the run's recipe.yaml says something else")
    return found


def _not_kept(said: object, resolved: object, key: tuple) -> Iterator[str]:
    """Values that were written and are not in the resolved recipe, or as something else."""
    if said is None or isinstance(said, str) and re.search(r"[~$]", said) or key == ("extends",):
        return
    if isinstance(said, dict) and isinstance(resolved, dict):
        for name, value in said.items():
            if str(name) in resolved:
                yield from _not_kept(value, resolved[str(name)], (*key, str(name)))
            elif key + (name,) != ("extends",):
                yield f"{'.'.join((*key, str(name)))} is dropped"
    elif isinstance(said, list) and isinstance(resolved, list) and len(said) == len(resolved):
        for index, (one, other) in enumerate(zip(said, resolved)):
            yield from _not_kept(one, other, (*key, str(index)))
    elif key == ("evaluate", "metrics") or key[:1] == ("evaluate",):  # a protocol may have the last word
        return
    elif isinstance(said, bool) != isinstance(resolved, bool) or not _same(said, resolved):
        yield f"{'.'.join(key)}: {said!r} became {resolved!r}"


def _same(said: object, resolved: object) -> bool:
    try:
        return said == resolved or float(said) == float(resolved)
    except (TypeError, ValueError, OverflowError):
        return str(said) == str(resolved)


def _out_of_range(resolved: dict) -> Iterator[str]:
    for key, value in _leaves(resolved):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        dotted = ".".join(("", *map(str, key)))
        bounds = [bounds for pattern, bounds in RANGES.items() if re.fullmatch(pattern, dotted)]
        if not math.isfinite(value) or abs(value) > LARGEST and isinstance(value, int):
            yield f"{dotted} is {value}"
        elif bounds and not bounds[0][0] <= value <= bounds[0][1]:
            yield f"{dotted} is {value}, outside {bounds[0]}"


def _leaves(values: object, key: tuple = ()) -> Iterator[tuple[tuple, object]]:
    if isinstance(values, (dict, list)):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _leaves(value, (*key, name))
    else:
        yield key, values


def _tree(base: str, in_full: bool) -> dict:
    """A base as nested values: as it is written, or resolved, every field there is."""
    tree = yaml.safe_load(BASES[base])
    return copy.deepcopy(_resolved(base)) if in_full else tree


@functools.cache
def _resolved(base: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{base}.yaml"
        file.write_text(BASES[base])
        return read(file).model_dump(mode="json", by_alias=True)


# ---- changes of the values: each returns what it did


# ---- files that are no recipes, and circles of files


def _write(name: str, text: str | bytes) -> Callable[[Path], None]:
    content = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(content) and None


def _both(*writers: Callable[[Path], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for writer in writers:
            writer(folder)

    return write


def _plain(extra: str) -> str:
    return BASES["plain"] + extra


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
NEEDS = "networks: {student: %s}\n"
FILES: dict[str, Callable[[Path], object]] = {
    "a named pipe": lambda folder: os.mkfifo(folder / "tried.yaml"),
    "an endless device": lambda folder: (folder / "tried.yaml").symlink_to("/dev/zero"),
    "a folder": lambda folder: (folder / "tried.yaml").mkdir(),
    "an empty file": _write("tried.yaml", ""),
    "random bytes": _write("tried.yaml", random.Random(0).randbytes(5000)),
    "UTF-16": _write("tried.yaml", _plain("").encode("utf-16")),
    "a link to itself": lambda folder: (folder / "tried.yaml").symlink_to("tried.yaml"),
    "extends itself": _write("tried.yaml", "extends: tried.yaml\nname: tried\n"),
    "two that extend each other": _both(_write("tried.yaml", "extends: b.yaml\n"), _write("b.yaml", "extends: tried.yaml\n")),
    "extends a named pipe": _both(_write("tried.yaml", "extends: pipe\n"), lambda folder: os.mkfifo(folder / "pipe")),
    "extends a folder": _write("tried.yaml", "extends: .\n"),
    "extends a thousand files": _both(
        *(_write("tried.yaml" if n == 0 else f"{n}.yaml", f"extends: {n + 1}.yaml\n") for n in range(1000)),
        _write("1000.yaml", _plain("")),
    ),
    "its own baseline": _write("tried.yaml", _plain("baseline: {recipe: tried.yaml}\n")),
    "its own teacher": _write("tried.yaml", BASES["taught"].replace("teacher.safetensors", "{recipe: tried.yaml}")),
    "two baselines of each other": _both(
        _write("tried.yaml", _plain("baseline: {recipe: b.yaml}\n")),
        _write("b.yaml", _plain("baseline: {recipe: tried.yaml}\n").replace("name: tried", "name: b")),
    ),
    "a baseline of the same name": _both(
        _write("tried.yaml", _plain("baseline: {recipe: b.yaml}\n")), _write("b.yaml", _plain("seed: 1\n")),
    ),
    "a baseline that is broken": _both(
        _write("tried.yaml", _plain("baseline: {recipe: b.yaml}\n")), _write("b.yaml", "name: b\nlosses: 3\n"),
    ),
    "a baseline that is a pipe": _both(
        _write("tried.yaml", _plain("baseline: {recipe: b.yaml}\n")), lambda folder: os.mkfifo(folder / "b.yaml"),
    ),
    "an alias inside of what it repeats": _write("tried.yaml", _plain("method: &a [*a]\n")),
    "a billion laughs": _write("tried.yaml", LAUGHS + _plain("")),
    "ten thousand brackets": _write("tried.yaml", "a: " + "[" * 10_000),
    "ten thousand nested mappings": _write("tried.yaml", "a: " + "{a: " * 10_000),
    "a thousand wrong keys": _write("tried.yaml", _plain("".join(f"key{n}: {n}\n" for n in range(1000)))),
    "five thousand traps": _write("tried.yaml", _plain("".join(f"key{n}: yes\n" for n in range(5000)))),
    "a thousand wrong losses": _write("tried.yaml", HEAD + f"networks: {{student: {NET}}}\nlosses:\n"
                                      + "  - {loss: nothing}\n" * 1000 + TAIL),
    "a key of a megabyte": _write("tried.yaml", _plain(f"{'k' * 1000}: 1\n\"{'k' * 2**20}\": 1\n")),
    "a value of a megabyte": _write("tried.yaml", _plain(f"method: {'v' * 2**20}\n")),
    "code in tags": _write("tried.yaml", _plain("method: !!python/object/apply:os.mkdir [exploded]\n")),
    "merge keys": _write("tried.yaml", "a: &a {b: 1}\n" + _plain("loop:\n  <<: *a\n")),
    "several documents": _write("tried.yaml", _plain("---\nname: other\n")),
    "doubled sections": _write("tried.yaml", _plain("optimizer: {lr: 1.0}\n")),
    "a name that is a path": _write("tried.yaml", _plain("").replace("name: tried", "name: ../tried")),
    "a name of 300 letters": _write("tried.yaml", _plain("").replace("name: tried", f"name: {'n' * 300}")),
    "a file in the way of the runs": _both(_write("tried.yaml", _plain("")), _write("runs", "")),
    "a pipe as weights": _both(_write("tried.yaml", BASES["taught"].replace("teacher.safetensors", "pipe.pth")),
                               lambda folder: os.mkfifo(folder / "pipe.pth")),
    "an endless device as weights": _both(_write("tried.yaml", BASES["taught"].replace("teacher.safetensors", "zero.pth")),
                                          lambda folder: (folder / "zero.pth").symlink_to("/dev/zero")),
    "a folder as weights": _both(_write("tried.yaml", BASES["taught"].replace("teacher.safetensors", "folder.pth")),
                                 lambda folder: (folder / "folder.pth").mkdir()),
    "a text file as a list of images": _write("tried.yaml", BASES["semi"].replace("1/2", "/etc/passwd")),
    "a pipe as a list of images": _both(_write("tried.yaml", BASES["semi"].replace("1/2", "pipe")),
                                        lambda folder: os.mkfifo(folder / "pipe")),
}  # fmt: skip
