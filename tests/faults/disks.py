"""Disks that are full or read-only, at the start of a run and when it goes on, and files that lie in the way.

What is judged: the run ends with a sentence (or does not mind); nothing that was saved is lost: with room again it
goes on with --resume to the weights, the checkpoint and the log of the undisturbed run.

A full disk is a small one in memory, mounted where only the process of the case sees it, which root may do; and, for
everybody, a limit on the size of a file, at which a write ends half-way. A read-only disk is the folder mounted so:
root minds no permissions.
"""

import functools
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from faults import kills
from faults.attempts import Case, Ending, Finding, Running, attempt
from faults.mounts import in_own_mounts, make_read_only, may_mount, mount_memory


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many disks, the kinds in turn."""
    kinds = [kind for kind in KINDS if may_mount() or kind not in MOUNTED]
    for number in range(count):
        name = kinds[number % len(kinds)]
        yield case(name, random.Random(f"disks {seed} {number}"))


def case(name: str, draw: random.Random) -> Case:
    """A disk of KINDS."""
    return Case("full and read-only disks", name, functools.partial(_run, name, draw))


def _run(name: str, draw: random.Random, folder: Path) -> Finding:
    undisturbed, _ = kills.whole()
    kills.prepare(folder)
    before: list[str] = []
    # a run that has come some way; without its checkpoints it would begin again, and its log with it
    if draw.random() < 0.5 and name not in ("a file called checkpoints", "the run folder is deleted"):
        first = attempt(folder, lambda: kills.train("tried.yaml", steps=draw.randint(1, 6)), seconds=kills.SECONDS)
        assert first.trouble is None, first
        before = _states(folder)
    ending = KINDS[name](folder, draw)
    if ending.trouble:
        return ending.trouble
    if before and ending.code == 2 and max(_states(folder), default="") < before[-1]:
        return Finding("lost", f"{before[-1]} is gone: {ending.err}")
    finding = kills.goes_on(folder, undisturbed)
    if finding.kind != "fine":
        return Finding(finding.kind, f"{ending.err}\nand then {finding.text}")
    return Finding("refused", ending.err.strip()) if ending.code == 2 else Finding("fine")


def _states(folder: Path) -> list[str]:
    """Training states of the complete checkpoints of the run, oldest first."""
    return sorted(str(path) for path in (folder / kills.RUN).glob("checkpoints/step-*/training_state/state.pt"))


def _small_disk(folder: Path, draw: random.Random) -> Ending:
    """runs/ on a disk that is too small for the whole run; afterwards it is moved to one with room."""
    files = [path for path in (folder / "runs").rglob("*") if path.is_file() and not path.is_symlink()]
    used = sum(-(-path.stat().st_size // 4096) * 4096 for path in files)  # in whole pages
    size = used + draw.choice((4096, draw.randint(1, 2**21), draw.randint(1, 2**23)))
    (folder / "runs").mkdir(exist_ok=True)

    def run() -> dict:
        in_own_mounts()
        shutil.copytree("runs", "before", symlinks=True)
        mount_memory("runs", size)
        shutil.copytree("before", "runs", symlinks=True, dirs_exist_ok=True)
        ending = attempt(folder, lambda: kills.train_here("--resume"), seconds=kills.SECONDS)
        shutil.copytree("runs", "after", symlinks=True)
        return {"code": ending.code, "out": ending.out, "err": ending.err, "started": ending.started}

    outer = attempt(folder, run, seconds=2 * kills.SECONDS)
    shutil.rmtree(folder / "runs")
    shutil.move(folder / ("after" if (folder / "after").exists() else "before"), folder / "runs")
    if outer.told is None:
        # the case's own trouble, such as a disk too small for what was there
        raise RuntimeError(outer.err)
    outer.code, outer.out, outer.err, outer.started = (outer.told[key] for key in ("code", "out", "err", "started"))
    return outer


def _small_files(folder: Path, draw: random.Random) -> Ending:
    """No file may grow beyond a size, so that a write ends half-way."""
    limit = draw.choice(
        (draw.randint(1000, 50_000), draw.randint(50_000, 1_500_000), draw.randint(1_000_000, 5_000_000))
    )

    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        kills.train_here("--resume", "data.workers=0")  # shared memory is files too

    return attempt(folder, run, seconds=kills.SECONDS)


def _read_only(where: str) -> Callable[[Path, random.Random], Ending]:
    def act(folder: Path, draw: random.Random) -> Ending:
        (folder / where).mkdir(exist_ok=True, parents=True)

        def run() -> None:
            in_own_mounts()
            make_read_only(folder / where)
            kills.train_here("--resume")

        return attempt(folder, run, seconds=kills.SECONDS)

    return act


def _in_the_way(name: str) -> Callable[[Path, random.Random], Ending]:
    """A file lies where the run wants a folder, or the other way round; afterwards it is taken away."""

    def act(folder: Path, draw: random.Random) -> Ending:
        path, aside = folder / kills.RUN / name, folder / "aside"
        if path.exists():
            path.rename(aside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if name in ("checkpoints", "student") else path.mkdir()
        ending = attempt(folder, lambda: kills.train_here("--resume"), seconds=kills.SECONDS)
        if path.is_file():
            path.unlink()
        elif path.is_dir() and name not in ("checkpoints", "student"):
            shutil.rmtree(path)
        if aside.exists():
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
        return ending

    return act


def _vanishing(folder: Path, draw: random.Random) -> Ending:
    """Another process deletes the run while it trains; nothing is there to be lost afterwards."""
    running = Running(folder, lambda: kills.train_here("--resume"))
    running.until(lambda: any((folder / kills.RUN).glob("checkpoints/step-*")))
    running.ends_in(draw.uniform(0, 0.3))
    shutil.rmtree(folder / kills.RUN, ignore_errors=True)
    ending = running.wait(kills.SECONDS)
    shutil.rmtree(folder / kills.RUN, ignore_errors=True)  # what was written after that is no whole run
    return ending


KINDS: dict[str, Callable[[Path, random.Random], Ending]] = {
    "a small disk": _small_disk, "a limit on the size of files": _small_files,
    "runs/ is read-only": _read_only("runs"), "the run folder is read-only": _read_only("runs/tried"),
    "checkpoints/ is read-only": _read_only("runs/tried/checkpoints"), "all is read-only": _read_only("."),
    "a small disk again": _small_disk, "a smaller limit": _small_files,
    "a file called checkpoints": _in_the_way("checkpoints"), "a folder called metrics.jsonl": _in_the_way("metrics.jsonl"),
    "a file called student": _in_the_way("student"), "the run folder is deleted": _vanishing,
}  # fmt: skip
MOUNTED = ("a small disk", "a small disk again", "runs/ is read-only", "the run folder is read-only",
           "checkpoints/ is read-only", "all is read-only")  # fmt: skip
