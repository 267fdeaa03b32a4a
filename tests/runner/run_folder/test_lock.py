"""Who may train in a run folder."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from segkd.runner.run_folder.lock import lock

HOLD = """
import os, sys, time
from pathlib import Path
from segkd.runner.run_folder.lock import lock
held = lock(Path(sys.argv[1]))
print("held", flush=True)
if sys.argv[2] == "with a child" and os.fork() == 0:
    time.sleep(1.5)
    os._exit(0)
time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Starts a process that holds the lock."""
    started = []

    def start(how):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "lock"), how], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_is_told_who_holds_it(tmp_path, owner):
    process = owner("alone")
    told = f"{tmp_path} is being trained by process {process.pid} on .* since 2.*; wait for its end or stop it first"
    since = time.monotonic()
    with pytest.raises(ValueError, match=told):
        lock(tmp_path / "lock")
    assert time.monotonic() - since < 2


@pytest.mark.parametrize("how", ["alone", "with a child"])
def test_a_killed_owner_leaves_no_lock(tmp_path, owner, how):
    """Its loading processes may live on for a moment."""
    process = owner(how)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with lock(tmp_path / "lock"):
        assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()


def test_a_lock_ends_when_it_is_closed(tmp_path):
    for _ in range(2):
        lock(tmp_path / "lock").close()
