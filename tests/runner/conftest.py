"""What the tests of whole runs share: a recipe that trains in a second, and commands run in processes of their own."""

import importlib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from started.commands import Commands, Result

from segkd.runner.building.delivered import Delivered, write_folder
from segkd.runner.comparing.bootstrap import mean_iou
from segkd.runner.recipe import hub as hub_files
from segkd.runner.recipe import parts
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import append_rows
from segkd.runner.run_folder.pretrained import description

HUB_COMMIT = "0123456789abcdef0123456789abcdef01234567"

TINY = """
name: tiny
data:
  dataset: synthetic
  args: {size: [32, 48], length: 15}     # odd: two processes cannot share it evenly
  crop_size: [32, 32]
  batch_size: 4
  workers: 0
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8}}
losses:
  - {loss: cross_entropy}
optimizer: {lr: 0.02}
schedule: {iterations: 4}
evaluate: {every: 2, batch_size: 5}
tracking: {wandb: disabled, images: 1, every: 2}
"""


@pytest.fixture(scope="session")
def assert_refused() -> Callable[..., None]:
    """assert_refused(result, "words", ...): the command ended with 2 and one screen on stderr that holds the words."""

    def check(result: Result, *words: str) -> None:
        assert result.code == 2, result.out + result.err
        lines = [line for line in result.err.splitlines() if line.strip()]
        assert 0 < len(lines) < 15 and "Traceback" not in result.err and max(map(len, lines)) < 700, result.err
        for word in words:
            assert word in result.err, f"{word!r} is not in: {result.err}"

    return check


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """run_here(export, folder, "--to", "segkd") runs a script of runner/ in this process."""

    def run(script: ModuleType, *words: object) -> None:
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
        script.main()

    return run


@pytest.fixture
def new_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], Path]]:
    """new_part("losses", "my_own", TEXT) writes a part of the user's own, which this process finds in its room."""
    written = []

    def write(room: str, name: str, text: str) -> Path:
        package, folder = importlib.import_module(f"segkd.{room}"), tmp_path / "parts" / room
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        written.append(f"segkd.{room}.{name}")
        return folder / f"{name}.py"

    yield write
    for name in written:
        sys.modules.pop(name, None)
    parts.find.cache_clear()
    parts._arguments.cache_clear()


@pytest.fixture
def explosive(tmp_path: Path) -> object:
    """An object that makes the folder `exploded` of the test when it is unpickled."""

    class Explosive:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    return Explosive()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the newest commit, HUB_COMMIT, of user/repo in the Hub's cache, which is offline."""
    repository = tmp_path / "hub/models--user--repo"
    folder = repository / "snapshots" / HUB_COMMIT
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(HUB_COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_files.download.cache_clear()
    return folder


STUDENT = """
extends: ../base.yaml
name: student
networks:
  teacher:
    {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8}, weights: {recipe: teacher.yaml},
     train: false}
losses: [{loss: cross_entropy}, {loss: kl}]
baseline: {recipe: ../recipes/teacher.yaml}
"""


@pytest.fixture
def recipes_on_hub(hub: Path) -> Path:
    """The Hub with recipes of a teacher and a student, which extend TINY as base.yaml."""
    (hub / "base.yaml").write_text(TINY)
    (hub / "recipes").mkdir()
    (hub / "recipes/teacher.yaml").write_text("extends: ../base.yaml\nname: teacher\n")
    (hub / "recipes/student.yaml").write_text(STUDENT)
    return hub


@pytest.fixture(scope="session")
def server() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def tiny_recipe() -> str:
    """A recipe that trains in a second, as it stands in a file."""
    return TINY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with tiny.yaml in it; runs go to its runs/."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@pytest.fixture
def distill(server: Commands, folder: Path) -> Callable[..., Result]:
    """distill("tiny.yaml", "seed=1", ..., processes=2) trains to the end and gives the result, whatever it is."""
    return lambda *arguments, **settings: server(folder, "distill", *arguments, **settings)


@dataclass(frozen=True)
class Run:
    """The folder of a run, read, and what the training has printed."""

    path: Path
    out: str = ""

    def rows(self, *without: str) -> list[dict]:
        """The log, without the values that differ between any two runs, and those named."""
        left_out = {"images_per_second", "memory_gib", *without}
        rows = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return [
            {key: value for key, value in row.items() if key not in left_out and not key.startswith("seconds/")}
            for row in rows
        ]

    def student(self, step: str = "last") -> dict[str, torch.Tensor]:
        """The student of a checkpoint."""
        return load_file(self.path / "checkpoints" / step / "student.safetensors")

    def state(self, step: str = "last") -> dict:
        """All of a checkpoint that a resume goes on from."""
        return torch.load(self.path / "checkpoints" / step / "training_state/state.pt", weights_only=True)

    def state_bits(self) -> object:
        """The state of the last checkpoint, its tensors as bytes: == compares every bit."""
        return bits(self.state())

    def ends(self) -> tuple[bytes, bytes]:
        """What the run delivers, and its last checkpoint's student, to the last bit."""
        files = ("student/model.safetensors", "checkpoints/last/student.safetensors")
        return tuple((self.path / file).read_bytes() for file in files)


def bits(value: object) -> object:
    """A nested state with its tensors as bytes."""
    if isinstance(value, dict):
        return {key: bits(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(inner) for inner in value]
    return (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value


@pytest.fixture(scope="session")
def run_at() -> type[Run]:
    """run_at(path) reads a run folder."""
    return Run


@pytest.fixture
def trained(distill: Callable[..., Result], folder: Path) -> Callable[..., Run]:
    """trained("kd", "seed=1", ...) trains tiny.yaml under this name to the end; `recipe` names another one."""

    def train(name: str, *arguments: str, recipe: str = "tiny.yaml", **settings) -> Run:
        result = distill(recipe, f"name={name}", *arguments, **settings)
        assert result.code == 0, result.err
        return Run(folder / "runs" / name, result.out)

    return train


@pytest.fixture(scope="session")
def finished() -> dict[tuple[str, ...], tuple[Path, str]]:
    """By name and assignments, runs of TINY that several tests begin with: a copy of the folder, what was printed."""
    return {}


@pytest.fixture
def trained_once(
    trained: Callable[..., Run],
    folder: Path,
    finished: dict[tuple[str, ...], tuple[Path, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Run]:
    """As `trained` for tiny.yaml, which is trained for the first test that asks; the others get a copy."""

    def train(*words: str) -> Run:
        path = folder / "runs" / words[0]
        if words not in finished:
            out = trained(*words).out
            finished[words] = shutil.copytree(path, tmp_path_factory.mktemp("finished") / "run", symlinks=True), out
        else:
            shutil.copytree(finished[words][0], path, symlinks=True)
        return Run(path, finished[words][1])

    return train


@pytest.fixture
def deliver() -> Callable[..., Path]:
    """deliver(folder, class_names, seed=0, palette=...) leaves a student folder: a small network as it was drawn."""

    def made(folder: Path, class_names: Sequence[str], *, seed: int = 0, **about) -> Path:
        torch.manual_seed(seed)
        args = {"backbone": "mobilenetv2_035", "output_stride": 16, "width": 8}
        args = parts.completed_arguments("models", "pspnet", args)
        network = parts.build("models", "pspnet", args, len(class_names)).eval()
        about = {"class_names": list(class_names), "ignore_index": 255} | about
        folder.mkdir(parents=True, exist_ok=True)
        write_folder(Delivered(network, description(network, "segkd", "pspnet", args) | about, None), folder)
        return folder

    return made


# runs distill.py and notes what each process has seen, and the networks, losses and averages it has in the end
SPY = """
import os, torch
from segkd.runner import distill
from segkd.runner.command import run_command
from segkd.runner.training.report import Report

seen, batches, deliver = [], distill.build_training_batches, Report.deliver

def watched(*given, **settings):
    for batch in batches(*given, **settings):
        other = batch.unlabelled
        seen.append([batch.indices] + ([] if other is None else [other.indices, other.strong.sum().item()]))
        yield batch

def last(report, check_claim):
    averages = {f"{name}.{key}": value for name, average in report.state.averages.items()
                for key, value in average.state_dict().items()}
    end = {"seen": seen, "state": {**report.state.graph.state_dict(), **averages}}
    torch.save(end, f"{report.recipe.name}-{os.environ.get('RANK', '0')}.pt")
    deliver(report, check_claim)

distill.build_training_batches, Report.deliver = watched, last
run_command(distill.main)
"""


@pytest.fixture
def spied(server: Commands, folder: Path) -> Callable[..., tuple[Result, list[dict]]]:
    """spied("two", "tiny.yaml", processes=2) trains under a name: the result, and `seen` and `state` by process."""

    def train(name: str, *arguments: str, processes: int = 1) -> tuple[Result, list[dict]]:
        (folder / "spy.py").write_text(SPY)
        result = server(folder, "spy.py", *arguments, f"name={name}", processes=processes)
        assert result.code == 0, result.err
        return result, [torch.load(folder / f"{name}-{rank}.pt") for rank in range(processes)]

    return train


@pytest.fixture
def fabricate(folder: Path) -> Callable[..., Path]:
    """fabricate("kd-s0", counts, "seed=0", ...) leaves the folder of a finished run with these (N, K, 3) counts.

    `taught`: by a teacher, with the loss kl. `phases`: seconds of an iteration, and of an evaluation as `scoring`.
    """

    def made(
        name: str,
        counts: np.ndarray,
        *assignments: str,
        curve: tuple[tuple[int, float], ...] = ((2, 0.1), (4, 0.2)),
        teachers: dict[str, float] | None = None,
        device: str = "cpu, 1 thread",
        seconds: float = 90.0,
        taught: bool = False,
        phases: dict[str, float] | None = None,
    ) -> Path:
        teacher = "networks.teacher={model: deeplabv3, args: {backbone: resnet18}, weights: t, train: false}"
        kl = [teacher, "losses=[{loss: cross_entropy}, {loss: kl}]"] if taught else []
        recipe = read(folder / "tiny.yaml", [f"name={name}", *kl, *assignments])
        run, miou = RunFolder(folder / recipe.folder), float(mean_iou(counts.sum(0), recipe.evaluate.absent))
        run.student.path.mkdir(parents=True)
        run.recipe_file.write_text(recipe.dump())
        run.student.weights_file.touch()
        class_names = [f"class {index}" for index in range(counts.shape[1])]
        config = {"model": "pspnet", "args": {}, "num_classes": len(class_names), "class_names": class_names}
        run.student.config_file.write_text(json.dumps(config))
        run.environment_file.write_text(json.dumps({"device": device}))
        protocol = {"protocol": protocol_words(recipe), "absent": recipe.evaluate.absent}
        cost = {"seconds": seconds, "parameters": 2_500_000, "flops": 3e9, "milliseconds": 8.0}
        run.summary_file.write_text(json.dumps({"miou": miou, "iteration": curve[-1][0], **protocol, **cost}))
        if teachers:
            run.teachers_file.write_text(json.dumps({name: {"miou": miou} for name, miou in teachers.items()}))
        told = {"images_per_second": recipe.data.batch_size * curve[-1][0] / seconds}
        told |= {f"seconds/{phase}": took for phase, took in (phases or {}).items()}
        append_rows(run.metrics_file, [{"iteration": iteration, "miou": miou, **told} for iteration, miou in curve])
        names = [f"{index}.png" for index in range(len(counts))]
        np.savez(run.images_file, names=np.array(names), counts=counts)
        return run.path

    return made
