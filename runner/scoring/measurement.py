"""What networks of any form cost, measured side by side, and the picture of what one gets for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segkd.runner.building import delivered
from segkd.runner.console import label_text
from segkd.runner.recipe.program_file import PRECISIONS, ProgramFile
from segkd.runner.run_folder.pretrained import build, find_student
from segkd.runner.run_folder.program_scores import read_scores
from segkd.runner.run_folder.replacing import replacing
from segkd.runner.scoring.cost import Timing, flops, in_turn, parameters, peak_since, resident_memory, wait_for_gpu
from segkd.runner.scoring.program import load_program


@dataclass(frozen=True)
class Measurement:
    """One network: None is what nobody knows of it.

    Attributes:
        miou: a share, as it was scored when it was delivered or, of an exported file, with score.py.
        bytes: of its file.
        memory: bytes that loading it and a first image took at most, on top of what was there.
        median, p95: milliseconds of an image; 95 of 100 runs did not exceed p95.
    """

    name: str
    engine: str
    miou: float | None
    parameters: int | None
    flops: int | None
    bytes: int
    memory: int | None
    median: float
    p95: float


@dataclass(frozen=True)
class _Loaded:
    """A network that is about to be measured: `run` takes images to scores of their size."""

    name: str
    engine: str
    run: Callable[[Tensor], Tensor]
    network: nn.Module | None  # what parameters and operations are counted on
    miou: float | None
    bytes: int
    size: tuple[int, int]


def measure(
    networks: Sequence[str], size: tuple[int, int] | None, device: str, rounds: int
) -> tuple[list[Measurement], tuple[int, int]]:
    """Measures networks on the same image of noise, one after another in turn.

    Args:
        networks: run folders, student folders, exported files. size: None: that of the first network.

    Returns:
        A measurement of each, and the height and width they were measured at.

    Raises:
        FileNotFoundError: no such network. ValueError: one that cannot be run, or takes no image of this size.
    """
    loaded: list[_Loaded] = []
    memory: list[int | None] = []
    for source in networks:
        before = _memory_before(device)
        one = _load(source, device)
        size = size or one.size
        images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = images.to(device)
        with torch.no_grad():
            one.run(images)
        memory.append(_memory_taken(before, device, one))
        loaded.append(one)
    times = in_turn([one.run for one in loaded], images, rounds)
    return [
        Measurement(one.name, one.engine, one.miou, *_counts(one, size), one.bytes, taken, timing.median, timing.p95)
        for one, taken, timing in zip(loaded, memory, map(Timing.of, times))
    ], size


def _load(source: str, device: str) -> _Loaded:
    file = ProgramFile.named(source)
    if file is not None:
        program = load_program(source, device)
        config, size = program.about, program.signature.size or tuple(program.about.get("resize") or (512, 512))
        known = {key: config[key] for key in ("model", "args", "num_classes") if key in config}
        with torch.device("meta"):  # shapes are enough to count on
            network = build(known, source) if len(known) == 3 else None
        scores = read_scores(file)
        miou = None if scores is None else scores["miou"]
        engine = ", ".join(filter(None, [program.engine, PRECISIONS.get(config.get("precision"))]))
        return _Loaded(source, engine, _scorer(program), network, miou, file.path.stat().st_size, size)
    found = delivered.find(source)
    network = found.network.to(device)
    size = found.config.get("resize") or found.size
    weights = find_student(source).weights_file
    bytes_of_file, miou = weights.stat().st_size, found.config.get("miou")
    return _Loaded(source, f"torch on {device}", _scorer(network), network, miou, bytes_of_file, tuple(size))


def _scorer(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """From images to scores of their size, which is what a device has to compute."""
    return lambda images: network(images).resized((images.shape[-2], images.shape[-1]))


def _counts(one: _Loaded, size: tuple[int, int]) -> tuple[int | None, int | None]:
    """Parameters and floating point operations of one image."""
    if one.network is None:
        return None, None
    images = torch.zeros(1, 3, *size, dtype=torch.uint8, device=next(one.network.parameters()).device)
    return parameters(one.network), flops(one.network, images)


def _memory_before(device: str) -> int | None:
    """Bytes in use; the peak begins anew here."""
    if device == "cpu":
        return resident_memory()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _memory_taken(before: int | None, device: str, one: _Loaded) -> int | None:
    """Most bytes in use since then, less those there were; not told of what allocates past torch on a GPU."""
    if device == "cpu":
        return peak_since(before)
    wait_for_gpu(torch.device(device))
    return torch.cuda.max_memory_allocated() - before if one.engine.startswith("torch on") else None


def on_the_front(found: Sequence[Measurement]) -> list[Measurement]:
    """Those that none of the others is both as fast and as good as, and one of the two better; the fastest first."""
    scored = [one for one in found if one.miou is not None]
    front = [
        one
        for one in scored
        if not any(
            other.median <= one.median
            and other.miou >= one.miou
            and (other.median, other.miou) != (one.median, one.miou)
            for other in scored
        )
    ]
    return sorted(front, key=lambda one: one.median)


def draw(found: Sequence[Measurement], file: Path) -> Path:
    """mIoU over latency as a PNG, a line through those that are on the front; without a mIoU a network has no point.

    Raises:
        ValueError: none of them has a mIoU.
    """
    from matplotlib.figure import Figure  # half a second to import, so only where a picture is drawn

    scored = [one for one in found if one.miou is not None]
    if not scored:
        raise ValueError("--picture: none of these networks says what mIoU it has; score exported files with score.py")
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    front = on_the_front(scored)
    axes.plot([one.median for one in front], [100 * one.miou for one in front], color="tab:grey", linewidth=1, zorder=1)
    for one in scored:
        color = "tab:blue" if one in front else "tab:grey"
        axes.plot(one.median, 100 * one.miou, "o", color=color, markersize=6)
        words = label_text(f"{one.name} ({one.engine})")
        axes.annotate(words, (one.median, 100 * one.miou), xytext=(6, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel="median latency of one image (ms)", ylabel="mIoU (%)")
    axes.margins(0.2)
    axes.grid(alpha=0.3)
    with replacing(file) as new:
        figure.savefig(new, format="png")
    return file
