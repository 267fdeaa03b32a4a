"""One thing tried: in a process of its own, in bounded time and memory, and what is to be thought of how it ended."""

import atexit
import gc
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import psutil

from segkd.runner.command import run_command

MEMORY = 4 * 2**30  # bytes a case may take beyond what its process has when it begins
SCREEN = 40  # lines of a message that people still read
PROCESSES = 32  # loading processes a case may start; a machine has an end to them too
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
# what a run starts: questions about the machine and the code it is made with, and its dashboard, kept here
OURS = {"git", "uname", "wandb-core"}


@dataclass(frozen=True)
class Finding:
    """What came of a case.

    Attributes:
        kind: `fine`: right results; `refused`: a sentence of at most SCREEN lines and exit code 2; or what must not
            be: `hang`: no end in its time; `traceback`: an error nobody caught, a crash, or a message of pages;
            `nonsense`: went on as if all were right; `lost`: a checkpoint or row that was there is gone; `code`: a
            file has started a program or made the canary.
        text: what was seen. times: how many such things were tried in the case.
    """

    kind: str
    text: str = ""
    times: int = 1


@dataclass(frozen=True)
class Case:
    """situation: a row of the table. name: what is done, in words. run: does it in an empty folder."""

    situation: str
    name: str
    run: Callable[[Path], Finding]


@dataclass
class Ending:
    """How an attempt ended. code: None where it was killed for taking too long. told: what the action returned."""

    code: int | None
    out: str
    err: str
    told: Any
    started: list[str]

    @property
    def trouble(self) -> Finding | None:
        """What is wrong with this end whatever was tried; None: nothing."""
        if self.code is None:
            return Finding("hang", self.err[-500:])
        if self.started:
            return Finding("code", f"started {self.started}")
        lines = [line for line in self.err.splitlines() if line.strip()]
        if "Traceback (most recent call last)" in self.err or self.code not in (0, 2, *STOPPED):
            return Finding("traceback", f"exit code {self.code}\n{self.err[-2500:]}")
        if self.code == 2 and not 0 < len(lines) <= SCREEN:
            return Finding("traceback", f"a message of {len(lines)} lines\n{self.err[:1000]}")
        # torch itself ends some of its messages with a NUL
        if any(not letter.isprintable() and letter not in "\n\t\r\0" for letter in self.err + self.out):
            return Finding("nonsense", f"control characters on the console: {self.err[:500]!r}")
        return None

    @property
    def finding(self) -> Finding:
        """Its trouble, a refusal, or nothing to complain about."""
        return self.trouble or (Finding("refused", self.err.strip()) if self.code == 2 else Finding("fine"))


class Running:
    """A command at work in a forked process, which leads a process group of its own."""

    def __init__(self, folder: Path, action: Callable[[], Any], *, memory: int | None = MEMORY):
        self.files = [tempfile.TemporaryFile() for _ in range(3)]  # stdout, stderr, what the action returned
        gc.freeze()  # collections in the child leave alone what is there, whose pages it would have to copy
        self.process = os.fork()
        if self.process == 0:
            _become(folder, action, *(file.fileno() for file in self.files), memory)
        gc.unfreeze()
        self.handle = os.pidfd_open(self.process)

    def ends_in(self, seconds: float) -> bool:
        """Waits so long at most for the end of the process."""
        ended = select.poll()
        ended.register(self.handle, select.POLLIN)
        return bool(ended.poll(seconds * 1000))

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> bool:
        """Waits until a condition holds, at most until the process ends; whether it came to that."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.ends_in(0.005) or time.monotonic() > deadline:
                return condition()
        return True

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone; one that has ended stays as it is."""
        if not self.ends_in(0):
            os.kill(self.process, number)

    def workers(self) -> list[psutil.Process]:
        """Its loading processes that have not ended; other programs it asks something are none."""
        try:
            here = psutil.Process(self.process)
            found = [child for child in here.children() if child.status() != "zombie"]
            return [child for child in found if child.cmdline() == here.cmdline()]
        except psutil.NoSuchProcess:
            return []

    def left_over(self) -> list[int]:
        """What is still at work of its process group."""
        found = []
        for process in psutil.process_iter(["status"]):
            try:
                if os.getpgid(process.pid) == self.process and process.info["status"] != "zombie":
                    found.append(process.pid)
            except ProcessLookupError:
                continue
        return found

    def wait(self, seconds: float, *, clear: bool = True) -> Ending:
        """How it ended; it is killed when its time is over.

        Args:
            clear: kill what it leaves behind, too.
        """
        in_time = self.ends_in(seconds)
        if not in_time:
            os.kill(self.process, signal.SIGKILL)
        if clear:
            try:
                os.killpg(self.process, signal.SIGKILL)
            except ProcessLookupError:  # it had not come to make itself a group
                pass
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        os.close(self.handle)
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        answer = json.loads(texts[2]) if texts[2] else {"told": None, "started": []}
        return Ending(code if in_time else None, texts[0], texts[1], **answer)


def attempt(folder: Path, action: Callable[[], Any], *, seconds: float = 30, memory: int | None = MEMORY) -> Ending:
    """Runs `action` as a command in a forked process; it and all it has started are gone afterwards.

    Args:
        action: ends as the commands of runner/ do, with `run_command`; what it returns must be JSON.
        folder: the working directory.
        memory: bytes it may take; None: as many as there are.
    """
    return Running(folder, action, memory=memory).wait(seconds)


def new_folder(name: str) -> Path:
    """A folder that is gone with this process, for what several cases share."""
    folder = Path(tempfile.mkdtemp(prefix=name))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _become(folder: Path, action: Callable[[], Any], out: int, err: int, told: int, memory: int | None) -> NoReturn:
    """Becomes the process of a case."""
    code, answer, started = 1, None, []
    try:
        os.setpgid(0, 0)
        sys.stdout, sys.stderr = open(out, "w", closefd=False), open(err, "w", closefd=False)  # pytest has its own
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(folder)
        os.environ["WANDB_MODE"] = "offline"
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if memory is not None:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory, resource.RLIM_INFINITY))
        _limit_processes()
        sys.addaudithook(lambda event, given: _note(started, event, given))
        answer = _run(action)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(told, json.dumps({"told": answer, "started": started}).encode())
        os._exit(code)


def _run(action: Callable[[], Any]) -> Any:
    answers = []
    run_command(lambda: answers.append(action()))
    return answers[0]


def _note(started: list[str], event: str, given: tuple) -> None:
    """Notes the programs a process starts."""
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        name = os.path.basename(os.fsdecode(given[0]))
        if name not in OURS:
            started.append(name)


def _limit_processes() -> None:
    """Lets a case start so many loading processes; the next one is refused as a machine without room would do it."""
    start, left = BaseProcess.start, [PROCESSES]

    def limited(process: BaseProcess) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(process)

    BaseProcess.start = limited
