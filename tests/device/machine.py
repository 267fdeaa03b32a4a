"""What the sections of run.py share: the machine they run on, the rows they yield, and steps of the real loop."""

import gc
import importlib.util
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import read_rows

TESTS = Path(__file__).parents[1]
WARM_UP = 5  # steps that are not counted


@dataclass(frozen=True)
class Machine:
    """Where a section computes.

    Attributes:
        tiny: a form of each section for a CPU, of seconds, which shows that it runs and no more.
        seconds: what the section may take. folder: an empty one. camvid: where CamVid lies, if it is there.
        workers: loading processes.
    """

    device: torch.device
    tiny: bool
    seconds: float
    folder: Path
    camvid: str | None = None
    workers: int = 0


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what, found: as they are shown. wanted: what it is held against. good: whether it holds; None: nothing is asked.
        one_of_many: shown only where it does not hold; the others of its section are counted.
        values: the numbers, for the JSON file.
    """

    what: str
    found: str
    wanted: str = ""
    good: bool | None = None
    one_of_many: bool = False
    values: dict[str, float] | None = None


def facts(machine: Machine) -> Iterator[Row]:
    """What the numbers were made on."""
    yield Row("torch", f"{torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}")
    yield Row("processors", f"{os.cpu_count()}, {machine.workers} loading processes")
    if machine.tiny:
        yield Row("GPU", "none that torch can use: a tiny form of each section", "a CUDA GPU", False)
    else:
        about = torch.cuda.get_device_properties(0)
        yield Row("GPU", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute {about.major}.{about.minor}")


def load(path: str) -> ModuleType:
    """A file of tests/ as a module: a benchmark, or a test with its tables of small losses and networks."""
    name = f"device_{Path(path).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def write_recipe(machine: Machine, text: str, *overrides: str) -> Recipe:
    """A recipe for short runs in the section's folder, which tell nobody of themselves."""
    file = machine.folder / "recipe.yaml"
    file.write_text(text)
    quiet = [f"tracking.folder={machine.folder}", "tracking.wandb=disabled", "tracking.images=0"]
    AcceleratorState._reset_state(reset_partial_state=True)  # one process trains in several precisions here
    return read(file, [*quiet, f"data.workers={machine.workers}", *overrides])


@dataclass(frozen=True)
class Steps:
    """The first steps of a run: median seconds of one, the most MiB on a GPU, and its log."""

    seconds: float
    mib: float | None
    rows: list[dict]


def first_steps(recipe: Recipe, count: int) -> Steps:
    """Makes `count` steps of the real loop after a few that are not counted."""
    overhead, measuring = load("benchmarks/step_overhead.py"), load("benchmarks/measuring.py")
    times = []

    def after_step(iteration: int) -> None:
        times.append(measuring.clocks()[0])
        if len(times) == WARM_UP + count + 1:
            raise overhead.Done

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        forget()
    overhead.run_loop(recipe, after_step)
    mib = torch.cuda.max_memory_allocated() / measuring.MIB if on_gpu else None
    return Steps(float(np.median(np.diff(times[WARM_UP:]))), mib, read_rows(RunFolder(recipe.folder).metrics_file))


def forget() -> None:
    """Frees what is no longer used on the GPU, and begins its peak anew."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def distance(found: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """|found - exact| / |exact|, both taken as one long vector."""
    one, other = (torch.cat([x.detach().double().cpu().flatten() for x in tensors]) for tensors in (found, exact))
    return ((one - other).norm() / other.norm().clamp_min(1e-30)).item()


def milliseconds(seconds: float) -> str:
    """`12.3 ms`."""
    return f"{1000 * seconds:.3g} ms"


def memory(mib: float | None) -> str:
    """`, 345 MiB`, where it was measured."""
    return "" if mib is None else f", {mib:.0f} MiB"


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
