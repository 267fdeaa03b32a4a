"""One training at a time in a run folder, over processes and over machines that share its disk."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import TextIO

from segkd.runner.recipe.text_file import read_json

PATIENCE = 10.0  # seconds in which the loading processes of a killed training end, too


def lock(file: Path) -> TextIO:
    """Takes the lock of a run folder. It holds until what is returned is closed or the process ends, however it ends.

    The kernel keeps the lock (flock), so a killed owner leaves none behind; the file tells who holds it.

    Raises:
        ValueError: another training holds it.
    """
    until = time.monotonic() + PATIENCE
    held = file.open("a+")
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = _owner(file)
            if _may_be_alive(owner) or time.monotonic() > until:
                held.close()
                who = "process {process} on {host} since {since}".format(**owner) if owner else "another process"
                raise ValueError(
                    f"{file.parent} is being trained by {who}; wait for its end or stop it first, or give this run "
                    f"another name (name=...)"
                ) from None
            time.sleep(0.2)
        except OSError:  # a disk without locks
            break
    held.truncate(0)
    json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, held)
    held.flush()
    return held


def _owner(file: Path) -> dict:
    """Who holds the lock; empty between its lock and its name."""
    try:
        owner = read_json(file)
        return {key: owner[key] for key in ("host", "process", "since")}
    except (ValueError, KeyError):
        return {}


def _may_be_alive(owner: dict) -> bool:
    """False where the owner is known to be gone, so that only processes it started still hold its lock."""
    if owner.get("host") != socket.gethostname():
        return bool(owner)
    try:
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
