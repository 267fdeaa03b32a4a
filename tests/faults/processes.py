"""Runs of two processes of which one dies or stops, and runs that are started twice.

What is judged: when one of two processes is killed or stopped, the other one ends in bounded time and its last word is
a sentence; the run then goes on with --resume to the weights, the checkpoint and the log of the undisturbed run of two
processes. A second start of a run is refused, whatever it was started with, and the first ends as if nothing had been;
of two starts at one moment, one trains. A run inside of another run's folder is refused.

The processes of a case are forks that find each other as those of torchrun do; `torchrun` itself starts them in the
long form, where what the processes say is told apart from what the launcher says.
"""

import functools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from faults import kills
from faults.attempts import Case, Ending, Finding, Running, new_folder
from faults.checkpoints import unlike
from faults.recipes import train
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from segkd.runner.command import run_command

DISTILL = Path(__file__).parents[2] / "runner/distill.py"
# each process computes whole batches: half of an accumulated part is too small; time for a machine with other work
RECIPE = kills.RECIPE.replace("accumulate: 2", "accumulate: 1").replace("timeout: 5", "timeout: 20")
RECIPE = (
    RECIPE.replace("workers: 1", "workers: 0").replace("iterations: 6", "iterations: 4").replace("every: 3", "every: 2")
)
SECONDS = 120
# else a group that starts again may find the addresses of its earlier processes in torchrun's store (CLUSTER.md)
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many: the kinds in turn."""
    kinds = list(KINDS)
    for number in range(count):
        name = kinds[number % len(kinds)]
        yield KINDS[name](name, random.Random(f"processes {seed} {number}"))


class Pair:
    """A training by two processes."""

    def __init__(self, folder: Path, *arguments: str):
        with socket.socket() as asked:
            asked.bind(("127.0.0.1", 0))
            port = str(asked.getsockname()[1])
        self.both = [Running(folder, lambda rank=rank: self._train(rank, port, arguments)) for rank in range(2)]

    @staticmethod
    def _train(rank: int, port: str, arguments: tuple[str, ...]) -> None:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
        kills.train_here(*arguments)

    def wait(self) -> list[Ending]:
        """How both ended."""
        return [running.wait(SECONDS) for running in self.both]


@functools.cache
def whole() -> Path:
    """A folder with the undisturbed run of two processes."""
    folder = new_folder("whole-of-two")
    kills.prepare(folder, RECIPE)
    endings = Pair(folder).wait()
    assert [ending.code for ending in endings] == [0, 0], endings
    return folder


def rank_lost(number: int) -> Callable[[str, random.Random], Case]:
    """One of two processes gets a signal that ends or stops it."""

    def case(name: str, draw: random.Random) -> Case:
        def run(folder: Path) -> Finding:
            undisturbed = whole()
            kills.prepare(folder, RECIPE)
            rank, step = draw.randrange(2), draw.randint(0, 3)
            pair = Pair(folder)
            pair.both[0].until(lambda: step == 0 or (folder / kills.RUN / f"checkpoints/step-{step:08d}").exists())
            pair.both[rank].ends_in(draw.uniform(0, 0.3))
            pair.both[rank].signal(number)
            other = pair.both[1 - rank].wait(SECONDS)
            pair.both[rank].signal(signal.SIGKILL)
            pair.both[rank].wait(SECONDS)
            if other.trouble:
                return Finding(other.trouble.kind, f"rank {rank} at step {step}\n{other.trouble.text}")
            endings = Pair(folder, "--resume").wait()
            trouble = next((ending.trouble for ending in endings if ending.trouble), None)
            if trouble or any(ending.code for ending in endings):
                return trouble or Finding("lost", f"it does not go on: {endings[0].err}")
            wrong = unlike(folder, undisturbed)
            if wrong:
                return Finding("lost", wrong)
            return Finding("refused", other.err.strip()) if other.code == 2 else Finding("fine")

        return Case("processes killed and stopped", name, run)

    return case


def asked_to_end(name: str, draw: random.Random) -> Case:
    """Both processes are asked to end, as a launcher does that is asked itself."""

    def run(folder: Path) -> Finding:
        undisturbed = whole()
        kills.prepare(folder, RECIPE)
        pair = Pair(folder)
        step = draw.randint(1, 3)
        pair.both[0].until(lambda: (folder / kills.RUN / f"checkpoints/step-{step:08d}").exists())
        for one in pair.both:
            one.signal(signal.SIGTERM)
        endings = pair.wait() + Pair(folder, "--resume").wait()
        trouble = next((ending.trouble for ending in endings if ending.trouble), None)
        wrong = trouble is None and unlike(folder, undisturbed)
        return trouble or (Finding("lost", wrong) if wrong else Finding("fine"))

    return Case("processes killed and stopped", name, run)


def started_twice(*flags: str) -> Callable[[str, random.Random], Case]:
    """A second start while the first trains."""

    def case(name: str, draw: random.Random) -> Case:
        def run(folder: Path) -> Finding:
            undisturbed, seconds = kills.whole()
            kills.prepare(folder)
            first = Running(folder, lambda: kills.train_here())
            first.until(lambda: (folder / kills.RUN / "recipe.yaml").exists())
            first.ends_in(draw.uniform(0, 0.5 * seconds))
            second = Running(folder, lambda: kills.train_here(*flags)).wait(kills.SECONDS)
            alive = not first.ends_in(0)
            ending = first.wait(kills.SECONDS)
            if ending.trouble or second.trouble:
                return ending.trouble or second.trouble
            if ending.code or (alive and second.code != 2):
                return Finding("lost", f"exit codes {ending.code} and {second.code}\n{ending.err}{second.err}")
            wrong = unlike(folder, undisturbed)
            return Finding("lost", wrong) if wrong else Finding(second.finding.kind, second.err.strip())

        return Case("started twice", name, run)

    return case


def at_one_moment(*flags: str) -> Callable[[str, random.Random], Case]:
    """Two starts at once."""

    def case(name: str, draw: random.Random) -> Case:
        def run(folder: Path) -> Finding:
            undisturbed, _ = kills.whole()
            kills.prepare(folder)
            if draw.random() < 0.5:  # of a run that has begun
                Running(folder, lambda: train("tried.yaml", steps=2)).wait(kills.SECONDS)
                given = flags or ("--resume",)
            else:
                given = flags
            both = [Running(folder, lambda: kills.train_here(*given)) for _ in range(2)]
            endings = [running.wait(kills.SECONDS) for running in both]
            trouble = next((ending.trouble for ending in endings if ending.trouble), None)
            if trouble:
                return trouble
            if sorted(ending.code for ending in endings) not in ([0, 2], [0, 0]):
                return Finding("lost", "\n".join(ending.err for ending in endings))
            wrong = unlike(folder, undisturbed)
            told = "".join(ending.err for ending in endings).strip()
            return Finding("lost", wrong) if wrong else Finding("refused" if told else "fine", told)

        return Case("started twice", name, run)

    return case


def inside_a_run(*assignments: str) -> Callable[[str, random.Random], Case]:
    """A run whose folder lies in another run's."""

    def case(name: str, draw: random.Random) -> Case:
        def run(folder: Path) -> Finding:
            undisturbed, _ = kills.whole()
            kills.prepare(folder)
            first = Running(folder, lambda: train("tried.yaml", steps=3)).wait(kills.SECONDS)
            assert not first.trouble, first
            second = Running(folder, lambda: kills.train_here("--overwrite", *assignments)).wait(kills.SECONDS)
            if second.code != 2:
                return second.trouble or Finding("nonsense", "a run inside of another one is trained")
            finding = kills.goes_on(folder, undisturbed)
            return finding if finding.kind != "fine" else Finding("refused", second.err.strip())

        return Case("started twice", name, run)

    return case


def by_torchrun(number: int | None, *flags: str, restarts: int = 0) -> Callable[[str, random.Random], Case]:
    """torchrun starts two processes, one of which is killed; the launcher's own words are not judged."""

    def case(name: str, draw: random.Random) -> Case:
        def run(folder: Path) -> Finding:
            undisturbed = whole()
            kills.prepare(folder, RECIPE)
            step, rank = draw.randint(1, 3), draw.randrange(2)
            code, said = _torchrun(folder, number, rank, step, flags, restarts)
            finding = Ending(code if code in (0, None) else 2, "", said, None, []).trouble
            if finding and not (finding.kind == "traceback" and not said.strip()):
                return finding
            endings = Pair(folder, "--resume").wait() if code else []
            trouble = next((ending.trouble for ending in endings if ending.trouble), None)
            wrong = trouble is None and unlike(folder, undisturbed)
            if trouble or wrong:
                return trouble or Finding("lost", wrong)
            return Finding("refused" if code else "fine", said.strip())

        return Case("processes of torchrun", name, run)

    return case


def node(port: int, nodes: tuple[int, int], restarts: int) -> None:
    """What `torchrun --nnodes LEAST:MOST --nproc-per-node 1 --rdzv-backend c10d` does on one machine, in forks."""
    config = LaunchConfig(
        *nodes, 1, run_id="tried", rdzv_backend="c10d", rdzv_endpoint=f"127.0.0.1:{port}", local_addr="127.0.0.1",
        max_restarts=restarts, start_method="fork", rdzv_configs={"last_call_timeout": 1},
    )  # fmt: skip
    os.environ.update(OWN_STORE)
    elastic_launch(config, _train_on_a_node)()


def _train_on_a_node() -> None:
    run_command(lambda: kills.train_here("--resume"))


def on_two_nodes(*, lost: bool) -> Callable[[str, random.Random], Case]:
    """A training on two machines, of which one process dies; `lost`: its machine does, too, and does not come back."""

    def case(name: str, draw: random.Random) -> Case:
        def run(folder: Path) -> Finding:
            undisturbed = whole()
            kills.prepare(folder, RECIPE)
            with socket.socket() as asked:
                asked.bind(("127.0.0.1", 0))
                port = asked.getsockname()[1]
            least = 1 if lost else 2
            nodes = [Running(folder, lambda: node(port, (least, 2), 3), memory=None) for _ in range(2)]
            step = draw.randint(1, 2)
            reached = nodes[0].until(lambda: (folder / kills.RUN / f"checkpoints/step-{step:08d}").exists(), SECONDS)
            # the first one keeps the list of the machines
            chosen = nodes[1] if lost else draw.choice(nodes)
            processes = psutil.Process(chosen.process).children(recursive=True)
            if lost:
                chosen.signal(signal.SIGKILL)
            for process in processes:
                process.kill()
            endings = [one.wait(SECONDS) for one in nodes]
            if not reached or [ending.code for ending in endings] != [0, -signal.SIGKILL if lost else 0]:
                return Finding("lost", "\n".join(f"{ending.code}\n{ending.out}{ending.err}" for ending in endings))
            if lost:  # one process adds up gradients in another order than two
                rows = (folder / kills.RUN / "metrics.jsonl").read_text().splitlines()
                return Finding("fine") if len(rows) == 4 else Finding("lost", f"{len(rows)} rows in the log")
            wrong = unlike(folder, undisturbed)
            return Finding("lost", wrong) if wrong else Finding("fine")

        return Case("processes of torchrun", name, run)

    return case


def _torchrun(
    folder: Path, number: int | None, rank: int, step: int, flags: tuple[str, ...], restarts: int
) -> tuple[int | None, str]:
    """The launcher's exit code, and what its processes have said on stderr."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max-restarts", str(restarts)]
    command = [sys.executable, *launch, "--log-dir", "logs", "--redirects", "3", str(DISTILL), "tried.yaml", *flags]
    environment = {**os.environ, **OWN_STORE, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    launcher = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                start_new_session=True)  # fmt: skip
    try:
        if number is not None:
            watched = Watched(launcher)
            watched.until(lambda: (folder / kills.RUN / f"checkpoints/step-{step:08d}").exists(), 120)
            watched.signal(number, rank)
        code: int | None = launcher.wait(2 * SECONDS)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        try:
            os.killpg(launcher.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        launcher.wait()
    return code, "".join(path.read_text(errors="replace") for path in sorted(folder.rglob("logs/**/stderr.log")))


class Watched:
    """torchrun and the processes it has started."""

    def __init__(self, launcher: subprocess.Popen):
        self.launcher = launcher

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits until a condition holds or the launcher has ended."""
        deadline = time.monotonic() + seconds
        while not condition() and self.launcher.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    def signal(self, number: int, rank: int) -> None:
        """Sends a signal to one of the training processes."""
        try:
            for child in psutil.Process(self.launcher.pid).children():
                if child.environ().get("RANK") == str(rank):
                    child.send_signal(number)
        except psutil.NoSuchProcess:
            pass


KINDS: dict[str, Callable[[str, random.Random], Case]] = {
    "a process killed": rank_lost(signal.SIGKILL), "a second start": started_twice(),
    "a second start with --overwrite": started_twice("--overwrite"), "a process stopped": rank_lost(signal.SIGSTOP),
    "two starts at one moment": at_one_moment(), "a second start with --resume": started_twice("--resume"),
    "both asked to end": asked_to_end, "two starts with --overwrite at one moment": at_one_moment("--overwrite"),
    "a run in another's checkpoints": inside_a_run("tracking.folder=runs/tried/checkpoints", "name=step-00000002"),
    "a run in another's folder": inside_a_run("tracking.folder=runs/tried", "name=student"),
    "a run that is another's parent": inside_a_run("tracking.folder=.", "name=runs"),
    "two nodes, a process killed": on_two_nodes(lost=False), "two nodes, one lost": on_two_nodes(lost=True),
    "torchrun, a process killed": by_torchrun(signal.SIGKILL), "torchrun, a process stopped": by_torchrun(signal.SIGSTOP),
    "torchrun that starts again": by_torchrun(signal.SIGKILL, "--resume", restarts=2),
    "torchrun that starts again without --resume": by_torchrun(signal.SIGKILL, restarts=2),
}  # fmt: skip
