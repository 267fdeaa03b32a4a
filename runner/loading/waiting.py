"""Batches of loading processes, waited for in bounded time: whatever happens to one of them ends in a sentence."""

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from segkd.runner.loading.batch import Batch
from segkd.runner.process import in_main_thread

SHARED_MEMORY = Path("/dev/shm")  # where Linux hands batches from process to process
POLL = 5.0  # seconds between two looks at what keeps the batches
LITTLE = 2**22  # bytes of shared memory that no batch of real images fits into


class LoadingError(OSError):
    """A loading process died, hangs, or cannot hand over what it has loaded."""


def wait_for_batches(loader: DataLoader, limit: float) -> Iterator[Batch]:
    """The batches of a loader.

    Args:
        limit: seconds after which a batch that does not come is given up.

    Raises:
        LoadingError: a loading process died or hangs, or the shared memory is full.
    """
    refuse_lack_of_memory(loader.num_workers)
    batches = _started(loader)
    watch = _Watch(getattr(batches, "_workers", []), limit)
    try:
        while True:
            watch.waits_since = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, ConnectionError, EOFError) as error:
                raise LoadingError(watch.reason or told_of_death(error)) from error
            watch.waits_since = None
            if isinstance(batch, Exception):  # of the data set
                raise batch
            yield batch
    finally:
        watch.is_over.set()
        del batches  # its processes end with it, and the traceback of an error would keep this frame


def refuse_lack_of_memory(workers: int) -> None:
    """LoadingError where there is no room for what a process and its loading processes speak through.

    torch would fail half way through, with tracebacks of what it cannot tidy up: a queue for each of them and one for
    their batches, and an event. Two more queues are for what else is written there meanwhile.
    """
    try:
        event = torch.multiprocessing.Event() if workers else None
        for queue in [torch.multiprocessing.Queue() for _ in range(workers + 3 if workers else 0)]:
            queue.close()
        del event  # only now: all of it is there at one time
    except OSError as error:
        raise LoadingError(
            f"loading processes cannot start: {SHARED_MEMORY} has no room for them or cannot be written to "
            f"({error.strerror or error}). Give it more (docker run --shm-size=8g), or load in the training process "
            f"(data.workers=0)"
        ) from error


def _started(loader: DataLoader) -> Iterator[Batch]:
    """The loader's iterator, its processes running, and nothing that answers when one of them ends.

    torch's answer to the signal is an error raised wherever the program is by then: in a step, in another library's
    clean-up, behind the report of the very same death. The next batch tells of it as well, within five seconds.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    except RuntimeError as error:
        raise LoadingError(told_of_death(error)) from error
    finally:
        if in_main_thread():  # the only one that may set, or has set, an answer
            is_torchs = getattr(before, "__module__", None) == signal_handling.__name__
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if is_torchs or before is None else before)


class _Watch:
    """Kills the loading processes when a batch does not come: the main process waits for them inside of torch, which
    has a time limit for most of it and for the reading of a stopped process's memory has none."""

    def __init__(self, processes: list, limit: float):
        self.processes, self.limit = processes, limit
        self.waits_since: float | None = None
        self.reason = ""
        self.is_over = threading.Event()
        if processes:
            threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.reason:
            if self.is_over.wait(POLL):
                time.sleep(POLL)
                break  # one that hangs would keep this process from its end, and leaves SIGTERM to it
            since = self.waits_since
            waited = 0.0 if since is None else time.monotonic() - since
            free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else LITTLE
            if waited > POLL and free < LITTLE:
                self.reason = (
                    f"loading processes cannot hand over their images: {SHARED_MEMORY} has {free / 2**20:.1f} MiB "
                    f"left. Give it more (docker run --shm-size=8g), or load in the training process (data.workers=0)"
                )
            elif waited > self.limit:
                self.reason = (
                    f"no images came from the loading processes in {waited:.0f} s; is their disk there? loop.timeout "
                    f"says how long to wait, data.workers=0 loads without them. The last checkpoint is whole: go on "
                    f"with --resume"
                )
        for process in self.processes:
            process.kill()


def told_of_death(error: Exception) -> str:
    """What to say of a loading process that ended."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"a loading process died ({reason[:160]}). The last checkpoint is whole: go on with --resume; if it happens "
        f"again, it wants more memory than there is (lower data.workers)"
    )
