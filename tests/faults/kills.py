"""Runs that are killed at any moment, and loading processes that die, stop, or have no shared memory.

What is judged: the killed run goes on with --resume, and after any number of kills its weights, its last checkpoint,
its log and the names of its files are those of the run that nobody disturbed, bit for bit; a killed run leaves no
process behind. A run whose loading process is killed, stopped or short of shared memory ends in bounded time with a
sentence, or goes on, and comes to that same end with --resume.
"""

import functools
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from accelerate.state import AcceleratorState
from faults.attempts import Case, Ending, Finding, Running, attempt, new_folder
from faults.checkpoints import unlike
from faults.mounts import in_own_mounts, may_mount, mount_memory
from faults.recipes import FLAT, FROZEN, HEAD, train, write_teacher

from segkd.runner.loading import waiting
from segkd.runner.training import report

SECONDS = 60  # a run without disturbance takes about three
# all that has a state: two streams, accumulation, moving averages, a memory, losses with parameters
RECIPE = f"""{HEAD.replace("workers: 0", "workers: 1").replace("length: 4", "length: 6")}  labelled: 1/2
  unlabelled: {{strong: {{}}}}
networks:
  student: {FLAT}
  teacher: {FROZEN}
  average: {{ema_of: student, train: false, ema_decay: 0.8}}
losses:
  - {{loss: cross_entropy}}
  - {{loss: cross_pseudo, from: average, 'on': strong}}
  - loss: cirkd_memory
    from: teacher
    args: {{pixel_memory: 40, region_memory: 8, pixel_contrast: 64, region_contrast: 32}}
  - {{loss: mgd, from: teacher, weight: 0.001}}
optimizer: {{lr: 0.02}}
schedule: {{iterations: 6, name: cosine}}
loop: {{accumulate: 2, ema: 0.9, clip_norm: 1.0, save_every: 1, timeout: 5}}
evaluate: {{every: 3, batch_size: 4}}
tracking: {{wandb: disabled, images: 0, every: 2, gradients: null}}
""".replace("batch_size: 2", "batch_size: 4")
RUN = Path("runs/tried")
POLL = 0.3  # seconds between two looks at loading processes, in place of the product's five


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many kills, a few to a run, and half as many troubles of loading processes."""
    left, number = count, 0
    while left > 0:
        draw = random.Random(f"kills {seed} {number}")
        kills = min(left, draw.choice((2, 3, 4)))
        yield killed(draw, kills)
        left, number = left - kills, number + 1
    troubles = list(TROUBLES)
    for number in range(max(count // 2, 1)):
        draw = random.Random(f"workers {seed} {number}")
        yield troubled(troubles[number % len(troubles)], draw)


def train_here(*arguments: str) -> None:
    """distill.py, which looks at its loading processes often, and draws no curves, which takes as long as its steps."""
    AcceleratorState._reset_state(reset_partial_state=True)  # this is a fork, whose parent may have had one of its own
    waiting.POLL = POLL
    report.curves = lambda rows, file: file.touch()
    train("tried.yaml", *arguments)


@functools.cache
def whole() -> tuple[Path, float]:
    """A folder with the undisturbed run, and the seconds it took."""
    folder, since = new_folder("whole"), time.monotonic()
    prepare(folder)
    ending = attempt(folder, train_here, seconds=SECONDS)
    assert ending.code == 0, ending.err
    return folder, time.monotonic() - since


def prepare(folder: Path, recipe: str = RECIPE) -> None:
    """The recipe and the weights it names."""
    write_teacher(folder)
    (folder / "tried.yaml").write_text(recipe)


def killed(draw: random.Random, kills: int, *flags: str) -> Case:
    """A run killed so many times, started with these further words."""

    def run(folder: Path) -> Finding:
        undisturbed, seconds = whole()
        prepare(folder)
        done: list[str] = []
        while len(done) < kills:
            running = Running(folder, lambda: train_here("--resume", *flags))
            done.append(_moment(running, folder, draw, seconds))
            running.signal(signal.SIGKILL)
            ending = running.wait(SECONDS, clear=False)
            if ending.code == 0:  # the moment came too late
                wrong = unlike(folder, undisturbed)
                if wrong:
                    return Finding("lost", wrong)
                done.pop()
                shutil.rmtree(folder / RUN)
                continue
            if ending.code != -signal.SIGKILL:
                return ending.trouble or Finding("lost", f"{done}: {ending.err}")
            if not _gone(running):
                return Finding("hang", f"processes {running.left_over()} outlive the killed run, after {done}")
        finding = goes_on(folder, undisturbed)
        return Finding(
            finding.kind, f"killed {', '.join(done)}\n{finding.text}", len(done) if finding.kind == "fine" else 1
        )

    return Case("kills (SIGKILL) at random moments", f"{kills} kills", run)


def _moment(running: Running, folder: Path, draw: random.Random, seconds: float) -> str:
    """Waits for a moment to kill at."""
    kind, delay = draw.choice(("any", "any", "save", "save", "log", "start", "end")), draw.uniform(0, 0.05)
    if kind == "any":
        delay = draw.uniform(0, 0.8 * seconds)
        running.ends_in(delay)
    elif kind == "start":
        running.ends_in(delay * 10)
    elif kind == "save":  # a partial checkpoint is there
        for save in range(draw.randint(1, 3)):
            if save:
                running.until(lambda: not _saves(folder), seconds)
            running.until(lambda: _saves(folder), seconds)
        running.ends_in(delay / 5)
    elif kind == "log":
        log = folder / RUN / "metrics.jsonl"
        size = log.stat().st_size if log.exists() else 0
        running.until(lambda: log.exists() and log.stat().st_size != size, seconds)
    else:  # while it delivers
        running.until(
            lambda: (folder / RUN / "curves.png").exists() or (folder / RUN / "student").exists(), 2 * seconds
        )
        running.ends_in(delay / 5)
    return f"{kind} + {delay:.3f} s"


def _saves(folder: Path) -> bool:
    return any((folder / RUN).glob("checkpoints/.*"))


def _gone(running: Running, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while running.left_over():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def goes_on(folder: Path, undisturbed: Path, times: int = 1) -> Finding:
    """Resumes the run of a folder to its end and compares it with the undisturbed one."""
    ending = attempt(folder, lambda: train_here("--resume"), seconds=SECONDS)
    if ending.trouble or ending.code:
        return ending.trouble or Finding("lost", f"it does not go on: {ending.err}")
    wrong = unlike(folder, undisturbed, run=RUN) or _other_files(folder, undisturbed)
    return Finding("lost", wrong) if wrong else Finding("fine", times=times)


def _other_files(folder: Path, undisturbed: Path) -> str:
    here, there = (
        {str(path.relative_to(place / RUN)) for path in (place / RUN).rglob("*")} for place in (folder, undisturbed)
    )
    changed = sorted(here ^ there)
    return f"files more or less: {', '.join(changed[:5])}" if changed else ""


# ---- loading processes


def troubled(name: str, draw: random.Random) -> Case:
    """A run whose loading processes get into a trouble of TROUBLES."""

    def run(folder: Path) -> Finding:
        undisturbed, seconds = whole()
        prepare(folder)
        ending = TROUBLES[name](folder, draw)
        if ending is None:
            return Finding("fine", "not tried: this machine lets nobody mount a small /dev/shm", 0)
        if ending.trouble:
            return ending.trouble
        finding = goes_on(folder, undisturbed)
        if finding.kind != "fine":
            return finding
        return Finding("refused", ending.err.strip()) if ending.code == 2 else Finding("fine")

    return Case("loading processes", name, run)


def in_turn(acts: dict[str, Callable[[Path, random.Random], Ending | None]], draw: random.Random) -> Case:
    """One run that gets into one trouble after the other, and goes on after each."""

    def run(folder: Path) -> Finding:
        undisturbed, _ = whole()
        prepare(folder)
        for name, act in acts.items():
            ending = act(folder, draw)
            if ending is not None and ending.trouble:
                return Finding(ending.trouble.kind, f"{name}: {ending.trouble.text}")
        return goes_on(folder, undisturbed)

    return Case("one trouble after the other", ", ".join(acts), run)


def _signalled(number: int) -> Callable[[Path, random.Random], Ending | None]:
    def act(folder: Path, draw: random.Random) -> Ending | None:
        running = Running(folder, lambda: train_here("data.workers=2", "--resume"))
        step = draw.randint(0, 4)
        running.until(lambda: step == 0 or (folder / RUN / f"checkpoints/step-{step:08d}").exists())
        running.until(lambda: bool(running.workers()))
        running.ends_in(draw.uniform(0, 0.2))
        for worker in running.workers()[: draw.choice((1, 1, 9))]:
            try:
                worker.send_signal(number)
            except Exception:  # it has ended in the meantime
                continue
        return running.wait(SECONDS)

    return act


def _shared_memory(size: int, read_only: bool = False) -> Callable[[Path, random.Random], Ending | None]:
    def act(folder: Path, draw: random.Random) -> Ending | None:
        if not may_mount():
            return None

        def run() -> None:
            in_own_mounts()
            mount_memory("/dev/shm", size, read_only=read_only)
            train_here("data.workers=2", "--resume")

        return attempt(folder, run, seconds=SECONDS)

    return act


TROUBLES: dict[str, Callable[[Path, random.Random], Ending | None]] = {
    "killed": _signalled(signal.SIGKILL), "stopped": _signalled(signal.SIGSTOP),
    "asked to end (SIGTERM)": _signalled(signal.SIGTERM), "out of order (SIGSEGV)": _signalled(signal.SIGSEGV),
    "shared memory of 8 KiB": _shared_memory(8192), "shared memory of 32 KiB": _shared_memory(2**15),
    "shared memory of 128 KiB": _shared_memory(2**17), "shared memory that is read-only": _shared_memory(2**20, True),
}  # fmt: skip
