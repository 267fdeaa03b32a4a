"""Commands in processes of their own: those of runner/ and scripts that tests write, as forks of one that is ready."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 400  # seconds before a run counts as hanging; compiling alone takes 150 on a slow machine


@dataclass
class Result:
    """How a run ended: exit codes and outputs of its processes, process 0 first."""

    codes: list[int]
    out: str
    err: str

    @property
    def code(self) -> int:
        """The exit code all processes agree on."""
        assert len(set(self.codes)) == 1, f"exit codes differ: {self.codes}\n{self.err}"
        return self.codes[0]


class Commands:
    """Runs the scripts of runner/ (or any other, by its path) one at a time, in a folder."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(Path(__file__).parent / "fork_server.py")]
        pipe = subprocess.PIPE
        self.server = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, bufsize=0)
        self.folder, self.processes = Path(), []  # those of the run that has not been waited for

    def __call__(self, folder: Path, script: str, *arguments: str, **settings) -> Result:
        """Runs a script to its end."""
        self.start(folder, script, *arguments, **settings)
        return self.wait()

    def start(
        self,
        folder: Path,
        script: str,
        *arguments: str,
        processes: int = 1,
        environment: dict[str, str] | None = None,
        file_limit: int | None = None,
        curves: bool = False,
    ) -> None:
        """Starts a script; `processes` of them, joined as torchrun would join them. Only with `curves` it draws them."""
        if self.processes:  # left running by a test that failed
            self.signal(signal.SIGKILL)
            self.wait()
        path = ROOT / "runner" / f"{script}.py" if not script.endswith(".py") else folder / script
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if processes > 1 else {}
        request = {"script": str(path), "arguments": arguments, "folder": str(folder), "processes": processes}
        request |= {"environment": {**address, **(environment or {})}, "file_limit": file_limit, "curves": curves}
        self.server.stdin.write(json.dumps(request).encode() + b"\n")
        self.folder = folder
        self.processes = json.loads(self.server.stdout.readline())

    def running(self) -> bool:
        """Whether the started script has not ended yet."""
        return not select.select([self.server.stdout], [], [], 0)[0]

    def wait_for(self, pattern: str) -> None:
        """Waits until a file of the folder has such a name, or the script has ended."""
        deadline = time.monotonic() + PATIENCE
        while not any(self.folder.glob(pattern)) and self.running() and time.monotonic() < deadline:
            time.sleep(0.005)

    def signal(self, number: int, rank: int = 0) -> None:
        """Sends a signal to one process; one that has ended already stays as it is."""
        if self.running():
            os.kill(self.processes[rank], number)

    def wait(self) -> Result:
        """Waits for the started script; one that hangs is killed and fails the test."""
        hangs = not select.select([self.server.stdout], [], [], PATIENCE)[0]
        for process in self.processes if hangs else []:
            os.kill(process, signal.SIGKILL)
        codes, self.processes = json.loads(self.server.stdout.readline()), []
        files = {name: [self.folder / f"{name}.{rank}" for rank in range(len(codes))] for name in ("stdout", "stderr")}
        out, err = ("".join(file.read_text() for file in outputs) for outputs in files.values())
        assert not hangs, f"no end after {PATIENCE} s\n{out}\n{err}"
        return Result(codes, out, err)

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]
